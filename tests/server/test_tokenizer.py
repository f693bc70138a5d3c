"""The tokenizer against the tokenizers library and transformers."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from motet.core.errors import ModelError, MotetError
from motet.server.chat_template import ChatOptions
from motet.server.tokenizer import TextTokenizer
from tests.server.tiny_model import BOS, END_OF_TURN, EOS, write_tiny_model

CONVERSATIONS = [
    [{"role": "user", "content": "Grüß dich,\n\n  <b>你好</b> & 'x' \"y\""}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": ""},
    ],
]

# One for each thing that templates of published models do: whitespace control, loops with
# breaks, tojson, dates, namespaces, macros, and marks for training.
TEMPLATES = {
    "trimmed": """{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == "system" %}
        {{- "<<" + message.content | trim + ">>" }}
        {%- continue %}
    {%- endif %}
{{ message.role }}: {{ message.content }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}assistant:{% endif %}""",
    "json": "{{ messages | tojson }}|{{ messages | tojson(indent=2) }}|{{ tools is none }}",
    "namespace": """{% set ns = namespace(last=-1) %}
{% for message in messages %}
    {% if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{% endfor %}
{% macro say(message) %}[{{ message['content'] }}]{% endmacro %}
{{ say(messages[ns.last]) }} {{ strftime_now("%Y") }}""",
    "generation": """{% for message in messages %}
    {% if message['role'] == 'assistant' %}
        {% generation %}{{ message['content'] }}{% endgeneration %}
    {% else %}
{{ message['content'] }}
    {% endif %}
{% endfor %}""",
}


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> TextTokenizer:
    return TextTokenizer.from_dir(model_dir)


def tiny_model_with(directory: Path, template: str | None, **config: object) -> Path:
    model_dir = write_tiny_model(directory, chat_template=template)
    file = model_dir / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return model_dir


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_chat_prompts_are_those_of_transformers(
    name: str, conversation: list[dict[str, str]], tmp_path: Path
) -> None:
    model_dir = tiny_model_with(tmp_path, TEMPLATES[name])
    theirs = AutoTokenizer.from_pretrained(model_dir)
    expected = theirs.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert TextTokenizer.from_dir(model_dir).encode_chat(conversation) == expected


TRIMMING = """{% for message in messages %}
<|{{ message.role }}|>{{ message.content | trim }}<|end|>
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}"""


@pytest.mark.parametrize("template", [TEMPLATES["trimmed"], TEMPLATES["generation"], TRIMMING])
@pytest.mark.parametrize("begun", ["It is ", "  It is", "It is\n\n", "It", "2 <|end|> It is "])
def test_a_message_is_continued_as_by_transformers(
    template: str, begun: str, tmp_path: Path
) -> None:
    model_dir = tiny_model_with(tmp_path, template)
    theirs = AutoTokenizer.from_pretrained(model_dir)
    conversation = [*CONVERSATIONS[1], {"role": "assistant", "content": begun}]
    expected = theirs.apply_chat_template(
        conversation, continue_final_message=True, tokenize=True, return_dict=False
    )
    options = ChatOptions(add_generation_prompt=False, continue_final_message=True)
    assert TextTokenizer.from_dir(model_dir).encode_chat(conversation, options) == expected


def test_a_message_that_is_not_written_out_cannot_be_continued(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.from_dir(tiny_model_with(tmp_path, TEMPLATES["namespace"]))
    conversation = [*CONVERSATIONS[0], {"role": "assistant", "content": "It is"}]
    with pytest.raises(MotetError) as caught:
        tokenizer.encode_chat(conversation, ChatOptions(continue_final_message=True))
    assert caught.value.param == "continue_final_message"


def test_templates_read_what_requests_tell_them(tmp_path: Path) -> None:
    template = "{{ enable_thinking }}|{{ date_string }}|{{ messages | length }}"
    tokenizer = TextTokenizer.from_dir(tiny_model_with(tmp_path, template))
    options = ChatOptions(template_kwargs={"enable_thinking": False, "date_string": "{{ 1 }}"})
    assert tokenizer.encode_chat(CONVERSATIONS[0], options) == tokenizer.encode("False|{{ 1 }}|1")


def test_special_tokens_are_added_where_they_are_asked_for(tmp_path: Path) -> None:
    file = tiny_model_with(tmp_path, "chat") / "tokenizer.json"
    adding = Tokenizer.from_file(str(file))
    adding.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, adding.token_to_id(BOS))]
    )
    adding.save(str(file))
    tokenizer = TextTokenizer.from_dir(tmp_path)
    plain = tokenizer.encode("chat", add_special_tokens=False)
    assert tokenizer.encode("chat") == [adding.token_to_id(BOS), *plain]
    assert tokenizer.encode_chat(CONVERSATIONS[0]) == plain
    options = ChatOptions(add_special_tokens=True)
    assert tokenizer.encode_chat(CONVERSATIONS[0], options) == tokenizer.encode("chat")


@pytest.mark.parametrize("add_bos_token", [None, True, False])
def test_prompts_are_encoded_as_by_transformers(add_bos_token: bool | None, tmp_path: Path) -> None:
    switch = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
    model_dir = tiny_model_with(tmp_path, None, **switch)
    theirs = AutoTokenizer.from_pretrained(model_dir)
    ours = TextTokenizer.from_dir(model_dir)
    for text in ("hello", "ü" * 3, f"{BOS}x{EOS}", " a\n"):
        assert ours.encode(text) == theirs(text)["input_ids"]


def test_the_template_file_wins_over_the_one_in_the_config(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path, chat_template="config")
    (model_dir / "chat_template.jinja").write_text("file")
    tokenizer = TextTokenizer.from_dir(model_dir)
    assert tokenizer.encode_chat(CONVERSATIONS[0]) == tokenizer.encode("file")


@given(st.text(max_size=40))
def test_pieces_together_are_the_whole_text(tokenizer: TextTokenizer, text: str) -> None:
    """Characters take up to four tokens here."""
    decoder = tokenizer.decoder()
    pieces = [decoder.push(token_id) for token_id in tokenizer.encode(text)]
    assert "".join([*pieces, decoder.flush()]) == text


@given(st.lists(st.integers(0, 258), max_size=30), st.booleans())
def test_pieces_of_any_tokens_are_the_whole_text(
    tokenizer: TextTokenizer, token_ids: list[int], skip: bool
) -> None:
    """Broken characters and special tokens among them."""
    decoder = tokenizer.decoder(skip_special_tokens=skip)
    pieces = [decoder.push(token_id) for token_id in token_ids]
    whole = tokenizer.decode(token_ids, skip_special_tokens=skip)
    assert "".join([*pieces, decoder.flush()]) == whole


def test_no_piece_ends_within_a_character(tokenizer: TextTokenizer) -> None:
    decoder = tokenizer.decoder()
    pieces = [decoder.push(token_id) for token_id in tokenizer.encode("a€b")]
    assert pieces == ["a", "", "", "€", "b"]


def test_generation_ends_at_every_end_token_that_the_files_name(tokenizer: TextTokenizer) -> None:
    ends = {token for text in (EOS, END_OF_TURN) for token in tokenizer.encode(text)}
    assert set(tokenizer.eos_token_ids) == ends


def test_a_template_cannot_leave_its_sandbox(tmp_path: Path) -> None:
    model_dir = write_tiny_model(
        tmp_path, chat_template="{{ messages.__class__.__mro__[1].__subclasses__() }}"
    )
    with pytest.raises(MotetError) as caught:
        TextTokenizer.from_dir(model_dir).encode_chat(CONVERSATIONS[0])
    assert caught.value.param == "messages"


def test_a_model_without_a_template_cannot_chat(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.from_dir(write_tiny_model(tmp_path, chat_template=None))
    with pytest.raises(MotetError, match="no chat template"):
        tokenizer.encode_chat(CONVERSATIONS[0])


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        TextTokenizer.from_dir(tmp_path)
    broken = write_tiny_model(tmp_path / "a")
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        TextTokenizer.from_dir(broken)
    shutil.rmtree(broken)
    with pytest.raises(ModelError, match="does not compile"):
        TextTokenizer.from_dir(write_tiny_model(broken, chat_template="{% if %}"))
