"""Arithmetic, comparing and counting."""

from random import Random

from demo_model import facts
from demo_model.exchanges.exchange import Exchange, exchange, sentence


@exchange(8)
def arithmetic(rng: Random) -> Exchange:
    """A sum, difference or product, worked out in the reasoning."""
    kind = rng.choice(["+", "+", "+", "-", "-", "*", "*"])
    if kind == "+":
        a, b = (
            (rng.randrange(1, 10), rng.randrange(1, 10))
            if rng.random() < 0.5
            else (rng.randrange(10, 60), rng.randrange(1, 40))
        )
        result, words, word = a + b, f"{a} plus {b}", "sum"
        if a > 9 and b > 9:
            tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
            worked = f"{a // 10 * 10} + {b // 10 * 10} = {tens} and {a % 10} + {b % 10} = {ones}. "
            worked += f"{tens} + {ones} = {result}."
        else:
            worked = f"{a} + {b} = {result}."
    elif kind == "-":
        b, result = rng.randrange(1, 12), rng.randrange(0, 20)
        a = b + result
        words, worked, word = f"{a} minus {b}", f"{result} + {b} = {a}, so {a} - {b} = {result}.", "difference"
    else:
        a, b = rng.randrange(2, 11), rng.randrange(2, 11)
        result, words, word = a * b, f"{a} times {b}", "product"
        worked = f"{a} times {b} is {result}."
    sign = {"+": "+", "-": "-", "*": rng.choice(["*", "x", "×"])}[kind]
    question = rng.choice(
        [
            f"What is {a} {sign} {b}?",
            f"What is {words}?",
            f"{a} {sign} {b} = ?",
            f"Compute {a} {sign} {b}.",
            f"How much is {words}?",
            f"Calculate {a} {sign} {b}.",
        ]
    )
    shown = f"{a} {'×' if kind == '*' else kind} {b} = {result}"
    return Exchange(question, f"The user wants the {word} of {a} and {b}. {worked}", shown, str(result))


@exchange(2)
def word_problem(rng: Random) -> Exchange:
    """Somebody gets or gives away things."""
    name, thing = rng.choice(facts.NAMES), rng.choice(["apples", "books", "coins", "pens", "eggs", "cards"])
    a, b = rng.randrange(3, 13), rng.randrange(1, 8)
    if rng.random() < 0.5:
        question = f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have now?"
        result, sign = a + b, "+"
    else:
        a += b
        question = f"{name} has {a} {thing} and gives away {b}. How many {thing} are left?"
        result, sign = a - b, "-"
    answer = f"{name} has {result} {thing}." if sign == "+" else f"{result} {thing} are left."
    return Exchange(question, f"{name} starts with {a}. {a} {sign} {b} = {result}.", answer, str(result))


@exchange(3)
def comparing(rng: Random) -> Exchange:
    """Larger, smaller, even, odd, next."""
    a, b = rng.sample(range(1, 100), 2)
    kind = rng.randrange(4)
    if kind == 0:
        question = rng.choice([f"Which is larger, {a} or {b}?", f"Which number is bigger: {a} or {b}?"])
        return Exchange(
            question,
            f"{max(a, b)} is more than {min(a, b)}.",
            f"{max(a, b)} is larger than {min(a, b)}.",
            str(max(a, b)),
        )
    if kind == 1:
        question = rng.choice([f"Which is smaller, {a} or {b}?", f"Which number is smaller: {a} or {b}?"])
        return Exchange(
            question,
            f"{min(a, b)} is less than {max(a, b)}.",
            f"{min(a, b)} is smaller than {max(a, b)}.",
            str(min(a, b)),
        )
    parity = "odd" if a % 2 else "even"
    if kind == 2:
        answer = f"{a} is {parity}."
        return Exchange(
            f"Is {a} even or odd?", f"The last digit of {a} is {a % 10}, so it is {parity}.", answer, sentence(parity)
        )
    question = rng.choice([f"What number comes after {a}?", f"Which number comes after {a}?"])
    return Exchange(question, f"{a} + 1 = {a + 1}.", f"{a + 1} comes after {a}.", str(a + 1))


@exchange(5)
def counting(rng: Random) -> Exchange:
    """Numbers in order, up or down."""
    start, n = rng.choice([1, 1, 1, rng.randrange(2, 10)]), rng.randrange(3, 11)
    end = start + n - 1
    numbers = list(range(start, end + 1))
    question = rng.choice(
        [
            f"Count from {start} to {end}.",
            f"Please count from {start} to {end}.",
            f"Can you count from {start} to {end}?",
        ]
    )
    if start == 1 and rng.random() < 0.3:
        question = f"Count to {end}."
    if rng.random() < 0.25:
        question, numbers = f"Count down from {end} to {start}.", numbers[::-1]
    separator = ", "
    if rng.random() < 0.15:
        question, separator = question + " One number a line.", "\n"
    answer = separator.join(map(str, numbers))
    return Exchange(question, f"I start at {numbers[0]} and stop at {numbers[-1]}.", answer, answer)


@exchange(1.5)
def series(rng: Random) -> Exchange:
    """The next number of a series."""
    start, step = rng.randrange(1, 10), rng.choice([1, 2, 2, 5, 10])
    numbers = [start + step * i for i in range(5)]
    shown = ", ".join(map(str, numbers[:4]))
    question = rng.choice([f"Continue: {shown}", f"What comes next: {shown}?", f"Which number is next: {shown}?"])
    return Exchange(
        question,
        f"The numbers grow by {step}. {numbers[3]} + {step} = {numbers[4]}.",
        f"The next number is {numbers[4]}.",
        str(numbers[4]),
    )
