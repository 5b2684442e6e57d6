"""Converts a released AudioStory checkpoint into a model folder of ours, and back, without ever holding it in memory.

    python scripts/convert_weights.py --model_path ckpt/audiostory-3B --tangoflux_model ckpt/Flux_detokenizer \\
        --output models/audiostory-3b
    python scripts/convert_weights.py --to released --model_path models/audiostory-3b --output ckpt-again

Qwen2.5 and Flan-T5, whose configurations and tokenizers are needed on the way there, are looked for under the names
that the checkpoint gives, beside it. The tensors keep their bits, and the LoRA stays apart in planner/lora/, so that
training can go on and the way back is open; --merge_lora folds it in for good. The output is put in place whole.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", choices=("ours", "released"), default="ours", help="the layout to write [%(default)s]")
    parser.add_argument("--model_path", type=Path, required=True, help="the folder of config.yaml, or a model of ours")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write, which must not exist")
    there = parser.add_argument_group("from the release to ours")
    there.add_argument("--tangoflux_model", type=Path, help="the VAE and the DiT's sizes [Flux_detokenizer beside it]")
    there.add_argument("--language_model", type=Path, metavar="DIR", help="Qwen2.5, if it lies elsewhere")
    there.add_argument("--text_encoder", type=Path, metavar="DIR", help="Flan-T5, if it lies elsewhere")
    there.add_argument("--added_tokens", type=Path, metavar="FILE", help="the list of added tokens, if elsewhere")
    there.add_argument("--llm_cfg_path", type=Path, metavar="FILE", help="for a config.yaml whose llm_model is null")
    there.add_argument("--merge_lora", action="store_true", help="fold LoRA into the planner's weights")
    arguments = parser.parse_args(argv)
    try:
        return _back(arguments) if arguments.to == "released" else _there(arguments)
    except (ValueError, OSError) as error:
        print(f"convert_weights.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("convert_weights.py: stopped; nothing was written", file=sys.stderr)
        return 130


def _there(arguments: argparse.Namespace) -> int:
    from audiostory.weights import convert, released

    folders = released.Folders.of(
        arguments.model_path,
        arguments.tangoflux_model,
        language_model=arguments.language_model,
        text_encoder=arguments.text_encoder,
        added_tokens=arguments.added_tokens,
        llm_config=arguments.llm_cfg_path,
    )
    for name, report in convert.to_ours(folders, arguments.output, merge_lora=arguments.merge_lora).items():
        print(f"{name}: {report}")
    print(f"{arguments.output}: a model folder, its LoRA {'merged' if arguments.merge_lora else 'apart'}")
    return 0


def _back(arguments: argparse.Namespace) -> int:
    given = ("tangoflux_model", "language_model", "text_encoder", "added_tokens", "llm_cfg_path", "merge_lora")
    if idle := [f"--{name}" for name in given if getattr(arguments, name)]:
        raise ValueError(f"{', '.join(idle)} mean nothing with --to released; leave them out")
    from audiostory.weights import convert_back

    back = convert_back.to_released(arguments.model_path, arguments.output)
    for name, report in back.reports.items():
        print(f"{name}: {report}")
    beside = " and ".join(Path(name).name for name in (back.language_model, back.text_encoder))
    print(f"{arguments.output}: a released checkpoint; reading it needs {beside}, which belong into the same folder")
    return 0


if __name__ == "__main__":
    sys.exit(main())
