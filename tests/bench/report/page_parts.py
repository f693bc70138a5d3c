"""A page as its elements, as an HTML parser sees them."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr", "base"}


class PageParts(HTMLParser):
    """Takes a page apart; a tag that closes another one's element is an error.

    Attributes:
        elements: (tag, attributes) in order.
        texts: the text of each element with its tag, its children's texts left out.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.append((self._open[-1], data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element with this tag."""
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, *tags: str) -> str:
        """All text in elements with these tags, or in all."""
        return "".join(text for tag, text in self.texts if not tags or tag in tags)
