"""Published codecs with small random weights: a folder, and the model of transformers that wrote it."""

import pytest
from published_codecs import ENCODEC, ENCODEC_48, MIMI, write


@pytest.fixture(scope="module")
def encodec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodec")
    return folder, write(folder, "Encodec", ENCODEC)


@pytest.fixture(scope="module")
def encodec_48(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodec48")
    return folder, write(folder, "Encodec", ENCODEC_48)


@pytest.fixture(scope="module")
def mimi(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimi")
    return folder, write(folder, "Mimi", MIMI)
