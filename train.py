"""Trains one stage: python train.py stage=codec

On several processes: torchrun --nproc_per_node=8 train.py stage=stage1 runtime=deepspeed_zero2
Every setting can be overridden, as Hydra does it: python train.py stage=stage1 stage.steps=200 output=runs/trial
The same command again goes on where the last one stopped. python train.py --cfg job stage=stage1 shows all settings.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"
GROUPS = ("stage", "model", "data", "weights", "runtime", "logger", "ablation")


def main() -> int:
    options = {group: sorted(file.stem for file in (CONFIGS / group).glob("*.yaml")) for group in GROUPS}
    listed = "\n".join(f"  {group}={'|'.join(names)}" for group, names in options.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"choices:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="+", metavar="key=value", help="stage=NAME, and whatever else is to differ")
    parser.add_argument("--cfg", choices=("job",), help="print the composed settings as yaml and stop")
    arguments = parser.parse_args()

    from audiostory import composing
    from audiostory.training import config

    try:
        composed = config.compose(CONFIGS, arguments.overrides)
        run = composing.build(config.RunConfig, composed)
        if arguments.cfg:
            print(composing.as_yaml(composed), end="")
            return 0
        _speak_plainly()
        from audiostory.training import builders

        builders.build(run, composed).start()
    except (ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


def _speak_plainly() -> None:
    """Our own lines, warnings of ours and of others, and one progress bar; not what libraries tell their developers."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("audiostory").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
