"""Export: write trained adapters in the form that another program or server reads.

    python recipes/export.py --adapter.path runs/demo/prompt_tuning --export.to vocabulary --export.output_dir exported

`--export.to` is `peft`, `vocabulary`, `prompt_embeds`, `kv_cache` or `hub`; `--help` describes each. Several adapters
of one base model are exported together as `--export.adapters '{sentiment: runs/sentiment/prompt_tuning, ...}'`. Each
export is compared with stock PEFT on validation rows of its task, or on the texts of `--input.text`. If they differ, no
files are written.

The exit code is 2, with one line, for an error that you can fix.
"""

import softprompts as sp


def main(model: sp.ModelConfig, adapter: sp.AdapterConfig, export: sp.ExportConfig, input: sp.InputConfig) -> None:  # noqa: A002
    """Write the export, and print its comparison and the next steps."""
    for line in sp.write_export(model, adapter, export, input):
        print(line)
    print(f"written to {export.output_dir}")


if __name__ == "__main__":
    sp.cli(main)
