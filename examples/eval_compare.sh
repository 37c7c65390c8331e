#!/usr/bin/env bash
# Evaluate on the same tasks, and compare each evaluation with the first one. By default, one agent at two temperatures.
# usage: examples/eval_compare.sh
#        TEMPERATURES="0.1 0.5 0.9" examples/eval_compare.sh
#        MODELS="model_v1 model_v2 model_v3" examples/eval_compare.sh
set -euo pipefail
source "$(dirname "$0")/environment.sh"

read -ra models <<< "${MODELS:-$agent}"
if [ "${#models[@]}" -gt 1 ]; then
    read -ra temperatures <<< "${TEMPERATURES:-0.1}"
else
    read -ra temperatures <<< "${TEMPERATURES:-0.1 0.9}"
fi

results=()
# stdout of a run goes to its log; the means are read from its summary
for model in "${models[@]}"; do
    for temperature in "${temperatures[@]}"; do
        name=eval_${model}_${temperature}
        ng_collect_rollouts \
            +agent_name="$model" \
            +input_jsonl_fpath="$tasks" \
            +output_jsonl_fpath="$outputs/$name.jsonl" \
            +sampling=eval +responses_create_params.temperature="$temperature" \
            +responses_create_params.seed=42 +limit="${LIMIT:-100}" \
            +resume_from_cache=true > "$outputs/$name.log"
        means=$(jq -c '.means | map_values(if . then . * 1e3 | round / 1e3 else . end)' "$outputs/${name}_summary.json")
        echo "$model at temperature $temperature: $means"
        results+=("$outputs/$name.jsonl")
    done
done
ng_compare_rollouts +rollouts_jsonl_fpaths="$(IFS=,; echo "${results[*]}")"
