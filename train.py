"""Trains one stage: python train.py stage=codec

Every setting can be overridden, as Hydra does it: python train.py stage=stage1 stage.steps=200 output=runs/trial
The same command again goes on where the last one stopped. python train.py stage=stage1 --cfg shows all settings.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"


def main() -> None:
    options = {
        group.name: sorted(p.stem for p in group.glob("*.yaml"))
        for group in sorted(CONFIGS.iterdir())
        if group.is_dir()
    }
    listed = "\n".join(f"  {group}={'|'.join(names)}" for group, names in options.items() if group != "recipe")
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"choices:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="+", metavar="key=value", help="stage=NAME, and whatever else is to differ")
    parser.add_argument("--cfg", action="store_true", help="print the composed settings and stop")
    arguments = parser.parse_args()

    from audiostory.training import config

    try:
        composed = config.compose(CONFIGS, arguments.overrides)
        run = config.build(config.RunConfig, composed)
        if arguments.cfg:
            print(json.dumps(composed, indent=2))
            return
        from audiostory.training import builders

        builders.build(run, composed).start()
    except (ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
