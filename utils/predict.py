"""Pictures from anywhere: read, brought to the network's size, answered."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from utils.device import autocast, pick_precision
from utils.errors import InputError
from utils.evaluation import evaluating, normalize
from utils.files import check_size
from utils.pictures import FORMATS, MODES, as_rgb

LARGEST_FILE = 50_000_000  # bytes


def load_picture(path: str | Path, side: int = 32) -> Tensor:
    """A picture file as uint8 (3, side, side): the middle square of it, scaled. Transparent parts become white.

    Raises:
        InputError: the file is missing, too large, or not a picture in one of the usual formats and kinds of pixels.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such picture")
    check_size(path, LARGEST_FILE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                if opened.mode not in MODES:
                    raise InputError(f"{path}: mode {opened.mode}, expected 8-bit colours; convert it to RGB first")
                picture = as_rgb(opened)
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down first") from error
    except Exception as error:  # PIL's many readers raise as many kinds of exception on broken bytes
        raise InputError(f"{path}: not a picture that can be read; PNG and JPEG can") from error
    picture = ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


@torch.no_grad()
def predict(model: nn.Module, pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Class probabilities, float32 (N, classes) on the CPU, of uint8 pictures (N, 3, H, W); mean, std as trained.

    Raises:
        InputError: pictures, mean or std are not that.
    """
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
        raise InputError(f"predict needs uint8 pictures (N, 3, H, W), got {pictures.dtype} {tuple(pictures.shape)}")
    if len(mean) != 3 or len(std) != 3 or not all(deviation > 0 for deviation in std):
        raise InputError(f"predict needs three means and three deviations above 0, got {mean} and {std}")
    device = next(model.parameters()).device
    with evaluating(model), autocast(device, pick_precision(device)):
        logits = model(normalize(pictures.to(device), mean, std))
    return logits.float().softmax(1).cpu()
