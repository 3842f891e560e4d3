"""Find the gain of each frequency that gives one recording the long-term spectrum of another."""

from __future__ import annotations

import torch
from torch import Tensor

from codec.audio.signal import mel_filterbank
from codec.errors import SoundloomError

BANDS = 40  # finer ones gain nothing for speakers outside those of the report (docs/experiments/lm-probes.md)
_LOUD = 0.01  # frames with less than this share of the loudest one's power show the room, not the speaker
_LARGEST = 1.5  # of a gain, about 13 dB
_TRUST = 5  # with this few loud frames, half of the measured gain is applied


def spectrum_gains(made: Tensor, wanted: Tensor, sample_rate: int, window: int) -> Tensor:
    """Return gains as natural logarithms [window // 2 + 1] that give ``made`` the mean log spectrum of ``wanted``.

    Both are waves [N] of the same words at the same time. The mean is over the loud frames of ``wanted``, in 40 mel
    bands; the fewer they are, the smaller the gains. It does for waveforms what cepstral mean subtraction (Atal 1974)
    does for features. Raises: `SoundloomError` for waves that are no pair.
    """
    if made.dim() != 1 or made.shape != wanted.shape:
        raise SoundloomError(
            f"waves of shape {list(made.shape)} and {list(wanted.shape)}; wanted two of one length [N]"
        )
    gains = made.new_zeros(window // 2 + 1)
    if len(made) < window:
        return gains
    hann = torch.hann_window(window, device=made.device)
    ours, theirs = (
        torch.stft(wave, window, window // 4, window=hann, return_complex=True).abs().square()
        for wave in (made, wanted)
    )
    power = theirs.sum(0)
    loud = power > _LOUD * power.max()
    count = int(loud.sum())
    if count == 0:
        return gains
    difference = ((theirs[:, loud] + 1e-6).log() - (ours[:, loud] + 1e-6).log()).mean(1) / 2
    bank = mel_filterbank(BANDS, window, sample_rate).to(made.device)  # [bins, bands]
    filled = bank.sum(0) > 0
    bank = bank[:, filled] / bank[:, filled].sum(0)
    bands = (bank.t() @ difference).clamp(-_LARGEST, _LARGEST) * (count / (count + _TRUST))
    share = bank / bank.amax(0)
    covered = share.sum(1) > 0
    gains = share @ bands / share.sum(1).clamp(min=1e-6)
    first, last = covered.nonzero()[[0, -1], 0].tolist()
    gains[:first], gains[last + 1 :] = bands[0], bands[-1]  # below the first band and above the last
    return gains
