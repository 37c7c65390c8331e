#!/usr/bin/env bash
# Evaluate models on the same tasks, and compare each with the first one.
# usage: MODELS="model_v1 model_v2 model_v3" examples/eval_compare.sh
set -euo pipefail
source "$(dirname "$0")/environment.sh"

read -ra models <<< "${MODELS:-example_math_agent example_tool_agent}"
results=()
# stdout of a run goes to its log; the means are read from its summary
for model in "${models[@]}"; do
    ng_collect_rollouts \
        +agent_name="$model" \
        +input_jsonl_fpath="$tasks" \
        +output_jsonl_fpath="$outputs/eval_$model.jsonl" \
        +sampling=eval +responses_create_params.seed=42 +limit="${LIMIT:-100}" \
        +resume_from_cache=true > "$outputs/eval_$model.log"
    echo "$model: $(jq -c .means "$outputs/eval_${model}_summary.json")"
    results+=("$outputs/eval_$model.jsonl")
done
ng_compare_rollouts +rollouts_jsonl_fpaths="$(IFS=,; echo "${results[*]}")"
