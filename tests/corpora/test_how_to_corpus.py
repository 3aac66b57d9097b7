"""The corpus of docs/how-to-add-a-corpus.md is one: it passes the contract that the page shows."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from eocube.corpora.protocol import Corpus
from eocube.testing.contracts_corpus import CorpusContract
from tests.arch.markdown import python_blocks

PAGE = Path(__file__).parents[2] / "docs" / "how-to-add-a-corpus.md"


def page_module() -> Any:
    """The page's classes and functions as a module, so that what they make can be pickled; what it runs is left out."""
    module = ModuleType("how_to_add_a_corpus")
    sys.modules[module.__name__] = module
    for block in python_blocks(PAGE):
        if "import eocube\n" not in block.code:
            exec(compile(block.code, str(PAGE), "exec"), module.__dict__)  # noqa: S102 - our own page
    return module


class TestThePagesFolderIsACorpus(CorpusContract):
    @classmethod
    def make_corpus(cls, folder: Path) -> Corpus:
        made: Corpus = page_module().TestFolderIsACorpus.make_corpus(folder)
        return made


def test_the_page_subclasses_the_contract() -> None:
    assert issubclass(page_module().TestFolderIsACorpus, CorpusContract)
