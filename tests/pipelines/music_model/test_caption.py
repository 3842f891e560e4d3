"""A user's caption in the words of the corpus; captions of the corpus keep their tokens."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from codec.errors import SoundloomError
from lm.text.tokenizer import TextTokenizer
from pipelines.music_corpus.arrange import arrange
from pipelines.music_corpus.captions import describe_clip
from pipelines.music_corpus.compose import compose
from pipelines.music_model.caption import plain_caption


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("slow solo piano in A minor", "slow solo piano in A minor"),
        ("Slow piano in A minor at 96 BPM.", "Slow piano in A minor at 96 beats per minute"),
        ("120bpm techno", "120 beats per minute techno"),
        ("tempo: 120, jazz", "120 beats per minute, jazz"),
        ("92.5 b.p.m.", "92 beats per minute"),
        ("100 beats a minute", "100 beats per minute"),
        ("♩ = 60", "60 beats per minute"),
        ("F# minor", "F sharp minor"),
        ("Bb major", "B flat major"),
        ("B♭ Major", "B flat major"),
        ("E-flat major", "E flat major"),
        ("Db min", "C sharp minor"),
        ("D sharp minor", "E flat minor"),
        ("Gb maj", "F sharp major"),
        ("c aeolian", "C minor"),
        ("organ in Am", "organ in A minor"),
        ("in the key of F#m", "in the key of F sharp minor"),
        ("harp in 3/4", "harp in three-four time"),
        ("harp in 4/4 time", "harp in four-four time"),
        ("6/8 jig", "six-eight time jig"),
        ("Calm; warm - piano (solo)!", "Calm, warm, piano, solo"),
        ("piano/violin", "piano, violin"),
        ("a minor-key lo-fi beat", "A minor-key lo-fi beat"),
        ("I am be minor 12 strings", "I am be minor 12 strings"),
    ],
)
def test_keys_tempi_metres_and_marks(written: str, plain: str) -> None:
    assert plain_caption(written) == plain
    assert plain_caption(plain) == plain


def test_captions_of_the_corpus_keep_their_tokens(tmp_path: Path) -> None:
    clips = [arrange(compose(seed), 0, 10.0) for seed in range(60)]
    captions = [caption.text for clip in clips for caption in describe_clip(clip)]
    tokenizer = TextTokenizer.train(captions, tmp_path, model_type="unigram", vocab_size=200, lexicon=None)
    assert [c for c in captions if tokenizer.encode(plain_caption(c)) != tokenizer.encode(c)] == []


def test_keys_and_tempi_stay_apart_in_the_tokens(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.train(["slow solo piano in A minor"], tmp_path, lexicon=None)
    texts = ["piano in A minor", "piano in B minor", "piano in A major", "piano in A minor at 96 BPM"]
    texts += ["piano in A minor at 69 BPM", "piano in A flat major"]
    assert len({tuple(tokenizer.encode(plain_caption(text))) for text in texts}) == len(texts)
    same = ["Piano in A minor, 96 BPM!", "piano in a MINOR, 96 beats per minute", "piano  in Am; 96bpm"]
    assert len({tuple(tokenizer.encode(plain_caption(text))) for text in same}) == 1


@pytest.mark.parametrize("one", ["1", " ", "tempo ", "A", "b ", "(", ".", "A#"])
def test_long_texts_are_refused_and_no_text_takes_long(one: str) -> None:
    began = time.process_time()
    plain_caption((one * 2000)[:2000])
    assert time.process_time() - began < 2
    with pytest.raises(SoundloomError, match="2001 characters, more than 2000"):
        plain_caption((one * 2001)[:2001])
