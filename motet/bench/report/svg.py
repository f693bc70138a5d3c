"""A figure of matplotlib's as a small SVG element that stands in a page and follows its colours.

Owns: what is taken out of and put into matplotlib's SVG.
Does not know: what is plotted.

What matplotlib writes is a whole document with fixed colours and fonts, namespaces, ids that repeat
from figure to figure, and coordinates of six decimals. The element has: text as text, in the page's
font; a custom property for each colour (`theme.py`); ids only where they are referred to; a title
and a description for who cannot see it; and no address of anything outside of the page.
"""

import io
import re
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure

from motet.bench.report.theme import LIGHT

_COORDINATES = ("d", "x", "y", "transform", "points")
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"#([\w.-]+)")
_COLOUR_NAMES = {value: name for name, value in LIGHT.items()}


def svg_of(figure: Figure, key: str, title: str, description: str) -> str:
    """The figure as an `svg` element for a page of HTML.

    Args:
        key: unlike that of any other figure of the page: its ids are made from it. Equal figures
            with equal keys give equal text.
    """
    root = _parse(figure, key)
    _remove_what_a_page_has(root)
    used = _referred_ids(root)
    for element in root.iter():
        _simplify(element, used)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{key}-title {key}-desc"}
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{key}-{tag}"})
        element.text = text
        root.insert(position, element)
    return ElementTree.tostring(root, encoding="unicode")


def _parse(figure: Figure, key: str) -> ElementTree.Element:
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return ElementTree.fromstring(text.getvalue())


def _remove_what_a_page_has(root: ElementTree.Element) -> None:
    """Metadata, style sheets (which would hold for all of the page), and white space."""
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
            child.tail = None
        if _local(parent.tag) != "text":
            parent.text = None


def _referred_ids(root: ElementTree.Element) -> set[str]:
    values = (value for element in root.iter() for value in element.attrib.values())
    return {name for value in values for name in _REFERENCE.findall(value)}


def _simplify(element: ElementTree.Element, used_ids: set[str]) -> None:
    element.tag = _local(element.tag)
    attributes = {_local(name): value for name, value in element.attrib.items()}
    if attributes.get("id") not in used_ids:
        attributes.pop("id", None)
    for name in _COORDINATES:
        if name in attributes:
            rounded = _NUMBER.sub(lambda match: f"{float(match[0]):.4g}", attributes[name])
            attributes[name] = " ".join(rounded.split())
    if "style" in attributes:
        attributes["style"] = _page_style(attributes["style"])
    element.attrib.clear()
    element.attrib |= attributes


def _page_style(style: str) -> str:
    """Declarations with the page's colours, and without fonts."""
    declarations = (each.strip() for each in style.split(";"))
    return "; ".join(
        _with_property(each) for each in declarations if not each.startswith("font-family")
    )


def _with_property(declaration: str) -> str:
    name, _, value = declaration.partition(": ")
    colour = _COLOUR_NAMES.get(value)
    return f"{name}: var(--{colour})" if colour else declaration


def _local(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition("}")[2]
