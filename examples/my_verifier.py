"""A Python verifier: +verifier=python +verifier.function=examples/my_verifier.py:short_and_right"""


def short_and_right(row, response):
    """Give a correct answer a reward of up to 1, and less the longer it is."""
    text = response["output"][-1]["content"][0]["text"]
    right = row["answer"] in text
    return {"reward": right / (1 + len(text) / 1000), "accuracy": right, "characters": len(text)}
