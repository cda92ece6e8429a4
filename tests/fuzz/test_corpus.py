"""The fuzzers' corpus and its neighbours, as ordinary tests; see tests/fuzz/fuzz.py."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fuzz_targets  # noqa: E402

CORPUS = Path(__file__).resolve().parent / "corpus"


@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_the_corpus_gives_nothing_but_our_own_errors(target, tmp_path):
    files = sorted((CORPUS / target).glob("*"))
    assert files, "the target has no corpus"
    for path in files:
        fuzz_targets.run(target, path.read_bytes(), tmp_path)


@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_seeds_are_valid_where_anything_can_be(target, tmp_path):
    """What the fuzzers start from reaches beyond the first check."""
    for content in fuzz_targets.seeds(target):
        fuzz_targets.TARGETS[target](content, tmp_path)


@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_damaged_seeds_give_nothing_but_our_own_errors(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp(target)
    seeds = fuzz_targets.seeds(target)

    @settings(max_examples=25, deadline=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.sampled_from(seeds), st.data())
    def damaged(seed, data):
        content = bytearray(seed)
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content)))
            cut = data.draw(st.sampled_from((0, 1, 1, 4, len(content))))
            content[place : place + cut] = data.draw(st.binary(max_size=8))
        fuzz_targets.run(target, bytes(content), folder)

    damaged()
