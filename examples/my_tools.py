"""Tools of your own: +tools=examples/my_tools.py. Names, hints and docstrings are what the model is told."""


async def add(numbers: list[float]) -> float:
    """Add numbers up."""
    return sum(numbers)


def multiply(a: float, b: float) -> float:
    """Multiply two numbers."""
    return a * b
