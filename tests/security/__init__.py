"""Attacks from outside, one file for each class: each is made, and has to fail.

Who attacks: whoever reaches the port, with no key or with one of a tenant; a web page in the
browser of somebody on this machine; and whoever wrote an adapter. The operator, the base model's
files and admins are trusted.
"""
