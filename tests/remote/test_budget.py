"""What may be spent is counted before it is sent, over processes, and never passed."""

import pytest

from warmeng.common.errors import InputError, UsageError
from warmeng.remote.budget import Budget, Limits, Price, read_prices
from warmeng.remote.errors import BudgetReached
from warmeng.remote.names import OFFICIAL, check_base, key_for, model_of

PRICES = {"m": Price(2.0, 8.0)}


def test_a_reservation_counts_until_it_is_settled(tmp_path):
    budget = Budget(Limits(tokens=1000), PRICES)
    key = budget.reserve("m", 600, 100)
    assert budget.tokens == 700
    assert budget.reserve("m", 300, 1) is None, "wait: the other one may settle for less"
    budget.settle(key, 50, 10)
    assert budget.tokens == 60
    assert budget.usd == pytest.approx((50 * 2 + 10 * 8) / 1e6)
    key = budget.reserve("m", 900, 40)
    budget.keep(key)
    with pytest.raises(BudgetReached, match=r"1,000 tokens could be passed by the next request \(--max-api-tokens\)"):
        budget.reserve("m", 1, 0)


@pytest.mark.parametrize(
    ("limits", "name"),
    [(Limits(requests=2), "--max-requests"), (Limits(usd=0.0021), "--max-cost"), (Limits(tokens=320), "--max-api")],
)
def test_each_limit_holds_at_its_value(limits, name):
    budget = Budget(limits, PRICES)
    for _ in range(2):
        budget.settle(budget.reserve("m", 100, 100), 100, 0 if limits.tokens else 100)
    with pytest.raises(BudgetReached, match=name):
        budget.reserve("m", 100, 100)
    assert budget.requests == 2


def test_what_a_killed_process_reserved_counts_in_full(tmp_path):
    path = tmp_path / "spending.jsonl"
    first = Budget(Limits(), PRICES, path, "again")
    first.settle(first.reserve("m", 100, 10), 30, 5)
    first.reserve("m", 500, 50)
    # Not closed, as if it were killed; its last line is torn.
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key":"ab')
    again = Budget(Limits(requests=2), PRICES, path, "again")
    assert (again.requests, again.tokens) == (2, 585)
    with pytest.raises(BudgetReached):
        again.reserve("m", 1, 1)
    again.close()
    assert path.read_bytes() == whole
    first.close()


@pytest.mark.parametrize("line", [{"key": "ab" * 16}, {"key": "ab" * 16, "of": "cd" * 16, "prompt": 1, "output": 1}])
def test_lines_that_are_no_spending_are_refused(tmp_path, line):
    from warmeng.common.journal import encode

    path = tmp_path / "spending.jsonl"
    path.write_bytes(encode(line))
    with pytest.raises(InputError, match="is no spending of this version"):
        Budget(Limits(), {}, path, "again")


def test_prices_are_read_by_model_and_refused_by_name(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text("gpt-4o: {in: 2.5, out: 10}\nft:x: {in: 3, out: 12.0}\n")
    assert read_prices(path) == {"gpt-4o": Price(2.5, 10.0), "ft:x": Price(3.0, 12.0)}
    for text, why in (("m: 3", "expected in and out"), ("m: {in: -1, out: 2}", "expected US dollars")):
        path.write_text(text)
        with pytest.raises((InputError, UsageError), match=why):
            read_prices(path)


def test_addresses_and_names_that_are_none_are_refused():
    assert check_base(None) == OFFICIAL
    assert check_base("http://127.0.0.1:8000/v1/") == "http://127.0.0.1:8000/v1"
    for base in ("127.0.0.1:8000", "ftp://x", "http://", "http://x:99999999/", "http://a b"):
        with pytest.raises(UsageError, match="expected an address"):
            check_base(base)
    for base in ("https://me:secret@x/v1", "https://x/v1?key=secret"):
        with pytest.raises(UsageError, match="user, a query or a fragment") as caught:
            check_base(base)
        assert "secret" not in str(caught.value)
    for name in ("openai:", "openai:a b", "openai:a\n"):
        with pytest.raises(UsageError, match="names no model"):
            model_of(name)


def test_a_key_goes_to_no_other_machine_unencrypted(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set"):
        key_for(OFFICIAL)
    assert key_for("http://10.0.0.1:8000/v1") == "none"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-secret")
    assert key_for("http://127.0.0.1:8000/v1") == key_for("https://example.org/v1") == "sk-secret-secret"
    with pytest.raises(UsageError, match="unencrypted"):
        key_for("http://10.0.0.1:8000/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "two words of it")
    with pytest.raises(UsageError, match="is no usable key"):
        key_for(OFFICIAL)
