"""Python tools: +tools=examples/my_tools.py. The model sees their names, type hints and docstrings."""


async def add(numbers: list[float]) -> float:
    """Add numbers up."""
    return sum(numbers)


def multiply(a: float, b: float) -> float:
    """Multiply two numbers."""
    return a * b
