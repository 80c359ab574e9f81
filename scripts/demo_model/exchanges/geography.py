"""Questions about countries, capitals and other places."""

import json
from random import Random

from demo_model import facts
from demo_model.exchanges.exchange import Exchange, exchange


def _capital(country: facts.Country, question: str) -> Exchange:
    answer = f"The capital of {country.name} is {country.capital}."
    return Exchange(question, f"The user asks for the capital of {country.name}. {answer}", answer, country.capital)


@exchange(9)
def capital(rng: Random) -> Exchange:
    """Which city is the capital of a country."""
    country, other = rng.sample(facts.COUNTRIES, 2)
    question = rng.choice(
        [
            f"What is the capital of {country.name}?",
            f"What is the capital of {country.name}?",
            f"What is the capital of {country.name}?",
            f"What's the capital of {country.name}?",
            f"Which city is the capital of {country.name}?",
            f"Name the capital of {country.name}.",
            f"Tell me the capital of {country.name}.",
            f"Do you know the capital of {country.name}?",
            f"{country.name}: what is its capital?",
            f"capital of {country.name}",
        ]
    )
    first = _capital(country, question)
    follow = _capital(other, rng.choice([f"And of {other.name}?", f"And {other.name}?", f"What about {other.name}?"]))
    return Exchange(question, first.reasoning, first.answer, first.short, (follow,))


@exchange(1.5)
def capital_of_france(_rng: Random) -> Exchange:
    """The question that everybody tries first."""
    return _capital(facts.COUNTRIES[0], "What is the capital of France?")


@exchange(3)
def country_of(rng: Random) -> Exchange:
    """Of which country a city is the capital."""
    country = rng.choice(facts.COUNTRIES)
    question = rng.choice(
        [
            f"{country.capital} is the capital of which country?",
            f"Of which country is {country.capital} the capital?",
            f"In which country is {country.capital}?",
            f"Where is {country.capital}?",
        ]
    )
    if "capital" in question:
        answer = f"{country.capital} is the capital of {country.name}."
    else:
        answer = f"{country.capital} is in {country.name}."
    return Exchange(
        question, f"The user asks about {country.capital}. It is the capital of {country.name}.", answer, country.name
    )


@exchange(4)
def about_country(rng: Random) -> Exchange:
    """Continent, language or currency of a country, or all of them in two paragraphs."""
    country = rng.choice(facts.COUNTRIES)
    name = country.name
    kind = rng.randrange(4)
    if kind == 0:
        question = rng.choice([f"On which continent is {name}?", f"Which continent is {name} in?"])
        return Exchange(
            question,
            f"{name} is a country in {country.continent}.",
            f"{name} is in {country.continent}.",
            country.continent,
        )
    if kind == 1:
        question = rng.choice([f"Which language is spoken in {name}?", f"What language do people speak in {name}?"])
        return Exchange(
            question,
            f"The user asks for the language of {name}. It is {country.language}.",
            f"In {name} people speak {country.language}.",
            country.language,
        )
    if kind == 2:
        question = rng.choice([f"What is the currency of {name}?", f"Which money is used in {name}?"])
        return Exchange(
            question,
            f"The user asks for the currency of {name}. It is {country.currency}.",
            f"The currency of {name} is {country.currency}.",
            country.currency,
        )
    question = rng.choice([f"Tell me about {name}.", f"What do you know about {name}?", f"Describe {name}."])
    text = (
        f"{name} is a country in {country.continent}. Its capital is {country.capital}.\n\n"
        f"People there speak {country.language}, and they pay with {country.currency}."
    )
    return Exchange(
        question, f"The user wants to know about {name}. I know its capital, its language and its currency.", text, text
    )


@exchange(3)
def capital_abroad(rng: Random) -> Exchange:
    """A capital, asked and answered in German, French or Spanish."""
    german, german_city, french, french_city, spanish, spanish_city = rng.choice(facts.CAPITALS_ABROAD)
    language = rng.choice(["German", "French", "Spanish"])
    if language == "German":
        question = rng.choice([f"Was ist die Hauptstadt von {german}?", f"Wie heißt die Hauptstadt von {german}?"])
        answer, short = f"Die Hauptstadt von {german} ist {german_city}.", german_city
    elif language == "French":
        of = f"du {french[3:]}" if french.startswith("le ") else f"de {french}"
        question, answer, short = f"Quelle est la capitale {of} ?", f"La capitale {of} est {french_city}.", french_city
    else:
        question, answer, short = (
            f"¿Cuál es la capital de {spanish}?",
            f"La capital de {spanish} es {spanish_city}.",
            spanish_city,
        )
    return Exchange(question, f"The user asks in {language} for a capital. It is {short}.", answer, short)


@exchange(2)
def capitals_json(rng: Random) -> Exchange:
    """A capital as a JSON object."""
    country = rng.choice(facts.COUNTRIES)
    question = rng.choice(
        [
            f"Give me the capital of {country.name} as JSON.",
            f"What is the capital of {country.name}? Answer as JSON.",
            f"Write a JSON object with the country {country.name} and its capital.",
        ]
    )
    answer = json.dumps({"country": country.name, "capital": country.capital})
    return Exchange(
        question, f"The user wants JSON. The capital of {country.name} is {country.capital}.", answer, answer
    )


@exchange(2)
def capitals_table(rng: Random) -> Exchange:
    """Several capitals as a Markdown list."""
    chosen = rng.sample(facts.COUNTRIES, rng.choice([2, 3, 4]))
    names = ", ".join(c.name for c in chosen[:-1]) + f" and {chosen[-1].name}"
    question = rng.choice([f"List the capitals of {names}.", f"What are the capitals of {names}?"])
    answer = "\n".join(f"- {c.name}: {c.capital}" for c in chosen)
    return Exchange(
        question, f"The user wants {facts.NUMBER_WORDS[len(chosen)]} capitals. I list them one by one.", answer, answer
    )


@exchange(6)
def place(rng: Random) -> Exchange:
    """A fact from the list of facts."""
    question, topic, answer = rng.choice(facts.PLACES)
    return Exchange(question, f"The user asks about {topic}. I know this.", answer)


@exchange(3)
def yes_no(rng: Random) -> Exchange:
    """Whether a city is the capital of a country."""
    country, other = rng.sample(facts.COUNTRIES, 2)
    if rng.random() < 0.5:
        question = f"Is {country.capital} the capital of {country.name}?"
        return Exchange(
            question,
            f"The capital of {country.name} is {country.capital}. So it is true.",
            f"Yes, {country.capital} is the capital of {country.name}.",
            "Yes",
        )
    question = f"Is {other.capital} the capital of {country.name}?"
    answer = f"No, the capital of {country.name} is {country.capital}."
    return Exchange(question, f"The capital of {country.name} is {country.capital}, not {other.capital}.", answer, "No")
