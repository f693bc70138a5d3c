"""Who shares cached prefixes."""

from hypothesis import given
from hypothesis import strategies as st

from motet.server.prefix_scope import prefix_scope

# Few letters, and those that could fool a naive way of putting the two together.
words = st.none() | st.text('a:,"[]\0', min_size=1, max_size=5)


@given(words, words, words, words)
def test_scopes_are_the_same_only_if_tenant_and_salt_are(
    tenant: str | None, salt: str | None, other_tenant: str | None, other_salt: str | None
) -> None:
    is_same = (tenant, salt) == (other_tenant, other_salt)
    assert (prefix_scope(tenant, salt) == prefix_scope(other_tenant, other_salt)) == is_same


def test_without_a_salt_the_tenant_decides() -> None:
    assert prefix_scope(None, None) is None
    assert prefix_scope("t", None) == "t"


def test_salts_are_not_passed_on() -> None:
    assert "secret" not in str(prefix_scope("t", "secret"))
