#!/usr/bin/env bash
# SFT: collect demonstrations at a low temperature, keep those with a high reward, and split them by prompt.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

ng_collect_rollouts \
    +agent_name="$agent" \
    +input_jsonl_fpath="$tasks" \
    +output_jsonl_fpath="$outputs/sft_rollouts.jsonl" \
    +sampling=sft +num_samples_in_parallel=20 +limit="${LIMIT:-100}" +resume_from_cache=true

ng_export_rollouts +recipe=sft \
    +input_jsonl_fpath="$outputs/sft_rollouts.jsonl" \
    +output_jsonl_fpath="$outputs/sft.jsonl" \
    +min_reward=0.8 +dedupe=normalised +shuffle=true +validation_fraction=0.05 +overwrite=true
