"""Tags of calls in tokenizers that mark them as special."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from motet.server.tokenizer import TextTokenizer
from tests.server.tiny_model import END_OF_TURN, write_tiny_model

TEXT = "a <tool_call>{}</tool_call> b"


def test_tags_have_text_even_if_they_are_special(tmp_path: Path) -> None:
    file = write_tiny_model(tmp_path) / "tokenizer.json"
    theirs = Tokenizer.from_file(str(file))
    tags = ("<tool_call>", "</tool_call>")
    theirs.add_special_tokens([AddedToken(tag, special=True) for tag in tags])
    theirs.save(str(file))
    ours = TextTokenizer.from_dir(tmp_path)
    ids = ours.encode(TEXT + END_OF_TURN)
    assert ids == theirs.encode(TEXT + END_OF_TURN).ids
    assert theirs.token_to_id(tags[0]) in ids
    assert theirs.decode(ids) == "a {} b"
    assert ours.decode(ids) == TEXT
    decoder = ours.decoder()
    assert "".join([*map(decoder.push, ids), decoder.flush()]) == TEXT
