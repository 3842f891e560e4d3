"""The published MusicGen against transformers: pytest -m network tests/lm/musicgen/test_published.py"""

import pytest
import torch

from codec.transformers_codecs import import_transformers
from lm.musicgen.generate import MusicGenSampling, generate
from pipelines.musicgen.model import load_musicgen

pytestmark = pytest.mark.network
TEXT = "a calm piano piece"


@pytest.mark.parametrize("name", ["facebook/musicgen-small", "facebook/musicgen-stereo-small"])
@torch.no_grad()
def test_musicgen(name, tmp_path):
    music, transformers = load_musicgen(name), import_transformers()
    model = transformers.MusicgenForConditionalGeneration.from_pretrained(name, use_safetensors=True).float().eval()
    inputs = transformers.AutoTokenizer.from_pretrained(name)([TEXT], return_tensors="pt")
    c = music.decoder.config
    ids = torch.randint(0, c.num_inputs, (1, c.num_levels, 8), generator=torch.Generator().manual_seed(0))
    states, lengths = music.text.encode([TEXT])
    state = music.decoder.start(states, lengths, 1, 8)
    logits = torch.stack([music.decoder.advance(state, ids[:, :, s : s + 1]) for s in range(8)], dim=2)
    expected = model(**inputs, decoder_input_ids=ids[0]).logits.view(1, c.num_levels, 8, -1)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    sound = 0.1 * torch.randn(c.channels, 32000, generator=torch.Generator().manual_seed(1))
    for guidance in (1.0, 3.0):
        settings = MusicGenSampling(temperature=0, guidance=guidance)
        for prompt in (None, sound):
            extra = {} if prompt is None else {"input_values": prompt[None]}
            wave = model.generate(
                **inputs, **extra, do_sample=False, guidance_scale=guidance, max_new_tokens=50 + c.lag
            )
            ours = music.write(TEXT, 1.0, prompt=prompt, settings=settings)
            # Other codes would be another sound altogether.
            torch.testing.assert_close(ours.waveform, wave[0], rtol=0, atol=1e-4)
    music.save_pretrained(tmp_path)
    again = transformers.MusicgenForConditionalGeneration.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(
        again(**inputs, decoder_input_ids=ids[0]).logits.view_as(expected), expected, rtol=0, atol=1e-4
    )
    assert generate(music.decoder, states, lengths, 4).shape == (1, c.num_levels, 4)
