"""Generate word problems of three steps with their answers: python make_tasks.py > arithmetic.jsonl"""

import json
import random

THEMES = {
    "SHOPPING": (["apples", "pens", "stickers"], ["buys", "finds", "gets"], ["gives away", "sells", "loses"]),
    "COOKING": (["eggs", "muffins", "lemons"], ["buys", "bakes", "picks"], ["eats", "uses", "breaks"]),
    "SAVINGS": (["coins", "tokens", "vouchers"], ["earns", "finds", "gets"], ["spends", "lends", "loses"]),
    "GARDENING": (["tulips", "carrots", "seeds"], ["picks", "collects", "buys"], ["gives away", "uses", "sells"]),
}
NAMES = ["Ana", "Ben", "Chloe", "Dev", "Elif", "Farid", "Grace", "Hugo"]


def make_task(number: int, rng: random.Random) -> dict:
    """One task; the total never becomes negative."""
    category = rng.choice(list(THEMES))
    things, gains, losses = THEMES[category]
    thing, name = rng.choice(things), rng.choice(NAMES)
    start = total = rng.randint(6, 14)
    events = []
    for _ in range(3):
        gain = rng.random() < 0.5 or total < 6
        amount = rng.randint(1, 5)
        total += amount if gain else -amount
        events.append(f"{rng.choice(gains if gain else losses)} {amount}")
    text = f"{name} has {start} {thing}. {name} {events[0]}, {events[1]} and then {events[2]} {thing}."
    prompt = f"Category: {category}\n{text} How many {thing} does {name} have now?"
    return {
        "id": f"arithmetic-{number:03d}",
        "category": category,
        "expected_answer": str(total),
        "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
    }


if __name__ == "__main__":
    source = random.Random(7)  # a fixed seed: the file is the same every time
    for index in range(300):
        print(json.dumps(make_task(index, source)))
