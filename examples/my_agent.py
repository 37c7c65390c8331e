"""A Python agent: +agents.mine._target_=examples/my_agent.py:answer +agent_name=mine

It asks the model for an answer, then asks it to check that answer, and scores the second answer itself.
"""


async def answer(row, client):
    params = row["responses_create_params"]
    draft = await client.respond(params)
    again = [{"role": "user", "content": "Look your answer over, then give it again in \\boxed{}."}]
    response = await client.respond({**params, "input": [*params["input"], *draft["output"], *again]})
    text = response["output"][-1]["content"][0]["text"]
    correct = f"\\boxed{{{row['answer']}}}" in text
    return {"response": response, "reward": float(correct), "accuracy": correct}
