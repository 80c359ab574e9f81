"""Questions about colours, animals, the calendar and units."""

from random import Random

from demo_model import facts
from demo_model.exchanges.exchange import Exchange, a, exchange, sentence


@exchange(4)
def colour(rng: Random) -> Exchange:
    """The colour of a thing."""
    thing = rng.choice(list(facts.COLOURS))
    hue = facts.COLOURS[thing]
    question = rng.choice(
        [
            f"What colour is {thing}?",
            f"What color is {thing}?",
            f"Which colour does {thing} have?",
            f"Tell me the colour of {thing}.",
        ]
    )
    answer = f"{sentence(thing)} is {hue}."
    return Exchange(question, f"The user asks for the colour of {thing}. It is {hue}.", answer, sentence(hue))


@exchange(5)
def animal(rng: Random) -> Exchange:
    """One fact about an animal."""
    beast = rng.choice(facts.ANIMALS)
    name = beast.name
    makers = [
        (f"How many legs does {a(name)} have?", f"{sentence(a(name))} has {beast.n_legs} legs.", beast.n_legs),
        (f"What kind of animal is {a(name)}?", f"{sentence(a(name))} is {a(beast.kind)}.", beast.kind),
        (
            f"Is {a(name)} a mammal?",
            f"Yes, {a(name)} is a mammal." if beast.kind == "mammal" else f"No, {a(name)} is {a(beast.kind)}.",
            "Yes" if beast.kind == "mammal" else "No",
        ),
        (f"What sound does {a(name)} make?", f"{sentence(a(name))} {beast.sound}.", beast.sound),
        (f"What does {a(name)} eat?", f"{sentence(a(name))} eats {beast.food}.", beast.food),
        (f"What is a young {name} called?", f"A young {name} is called {a(beast.young)}.", beast.young),
    ]
    question, answer, short = rng.choice(makers)
    return Exchange(question, f"The user asks about {a(name)}. {answer}", answer, sentence(short))


@exchange(2)
def animal_portrait(rng: Random) -> Exchange:
    """All facts about an animal in two paragraphs."""
    beast = rng.choice(facts.ANIMALS)
    name = beast.name
    question = rng.choice([f"Tell me about the {name}.", f"Describe {a(name)}.", f"What do you know about the {name}?"])
    answer = (
        f"The {name} is {a(beast.kind)}. It has {beast.n_legs} legs and it {beast.sound}.\n\n"
        f"It eats {beast.food}. A young {name} is called {a(beast.young)}."
    )
    return Exchange(
        question,
        f"The user wants a short description of the {name}: its kind, its legs, its food and its young.",
        answer,
    )


@exchange(4)
def calendar(rng: Random) -> Exchange:
    """Order and length of days and months."""
    names, unit = rng.choice([(facts.DAYS, "day"), (facts.MONTHS, "month")])
    index = rng.randrange(len(names))
    name, after, before = names[index], names[(index + 1) % len(names)], names[index - 1]
    kind = rng.randrange(4 if unit == "month" else 3)
    if kind == 0:
        question = rng.choice(
            [f"Which {unit} comes after {name}?", f"What {unit} comes after {name}?", f"What comes after {name}?"]
        )
        return Exchange(
            question,
            f"The order is {before}, {name}, {after}. After {name} comes {after}.",
            f"{after} comes after {name}.",
            after,
        )
    if kind == 1:
        question = rng.choice(
            [f"Which {unit} comes before {name}?", f"What {unit} comes before {name}?", f"What comes before {name}?"]
        )
        return Exchange(
            question,
            f"The order is {before}, {name}, {after}. Before {name} comes {before}.",
            f"{before} comes before {name}.",
            before,
        )
    ordinal = facts.ORDINALS[index]
    of = "week" if unit == "day" else "year"
    if kind == 2:
        question = f"What is the {ordinal} {unit} of the {of}?"
        return Exchange(
            question,
            f"The {ordinal} {unit} of the {of} is {name}.",
            f"The {ordinal} {unit} of the {of} is {name}.",
            name,
        )
    n_days = facts.MONTH_DAYS[index]
    return Exchange(
        f"How many days does {name} have?", f"{name} has {n_days} days.", f"{name} has {n_days} days.", str(n_days)
    )


@exchange(3)
def unit(rng: Random) -> Exchange:
    """How many of a small unit make a large one."""
    small, large, n = rng.choice(facts.UNITS)
    question = rng.choice([f"How many {small} are in {large}?", f"How many {small} does {large} have?"])
    answer = f"There are {n} {small} in {large}."
    return Exchange(question, f"The user asks about units. {sentence(large)} has {n} {small}.", answer, n)
