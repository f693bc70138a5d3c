"""Sentences that the `ticket-label` task puts together."""

from __future__ import annotations

QUEUES: dict[str, list[str]] = {
    "billing": [
        "I was charged twice for order {order}.",
        "The invoice for {company} shows the wrong amount.",
        "Please send the receipt for order {order}.",
        "My card was declined when I paid for order {order}.",
        "Where is the refund for order {order}?",
        "{company} needs its VAT number on invoice {order}.",
        "Why did the monthly price go up for {company}?",
        "The discount code was not taken off order {order}.",
    ],
    "account": [
        "I cannot sign in with my {company} address.",
        "The password reset mail never arrives at {company}.",
        "Please remove user {order} from the {company} team.",
        "I lost the phone that has my second factor, user {order}.",
        "How do I change the email address of profile {order}?",
        "My profile {order} is locked after too many attempts.",
        "Invite a colleague from {company} in {city} to our workspace.",
        "Please delete my profile {order} and its data.",
    ],
    "shipping": [
        "Parcel {order} has not arrived in {city}.",
        "The tracking page for parcel {order} is stuck in {city}.",
        "The box for {company} came damaged.",
        "Please send order {order} to our {city} office instead.",
        "The courier left parcel {order} at the wrong door in {city}.",
        "Half of delivery {order} is missing.",
        "When will order {order} reach {city}?",
        "Customs in {city} is holding parcel {order}.",
    ],
    "bug": [
        "The app crashes when I open report {order}.",
        "Export to CSV gives an empty file for {company}.",
        "The search page shows error {order}.",
        "The map of {city} does not load.",
        "Saving a draft throws error {order}.",
        "The chart for {company} draws the wrong axis.",
        "The page for {city} freezes when I scroll.",
        "Dark mode turns the text of screen {order} invisible.",
    ],
}

URGENT: list[str] = [
    "This is urgent.",
    "All our staff are blocked.",
    "We need this fixed today.",
    "Our launch is in an hour.",
    "We lose money every minute.",
    "Please act right now.",
    "It is an emergency.",
    "Nobody here can work.",
]

MILD: list[str] = [
    "No rush.",
    "Whenever you have time.",
    "Just letting you know.",
    "Next week is fine.",
    "It is only a small thing.",
    "Thanks in advance.",
    "Not important.",
    "Take your time.",
]
