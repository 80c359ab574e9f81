"""Questions about words: opposites, translations, spelling, repeating, lists."""

from random import Random

from demo_model import facts
from demo_model.exchanges.exchange import Exchange, exchange, sentence


@exchange(4)
def opposite(rng: Random) -> Exchange:
    """The opposite of a word."""
    (word, other), (next_word, next_other) = rng.sample(facts.OPPOSITES, 2)
    if rng.random() < 0.5 and word not in ("light",) and other not in ("light", "old"):
        word, other = other, word
    question = rng.choice(
        [
            f"What is the opposite of {word}?",
            f"Give me the opposite of {word}.",
            f'What is the opposite of "{word}"?',
            f"Which word is the opposite of {word}?",
        ]
    )
    follow = Exchange(
        rng.choice([f"And of {next_word}?", f"And the opposite of {next_word}?"]),
        f"The user asks for the opposite of {next_word}. It is {next_other}.",
        f"The opposite of {next_word} is {next_other}.",
        sentence(next_other),
    )
    reasoning = f"The user asks for the opposite of {word}. It is {other}."
    return Exchange(question, reasoning, f"The opposite of {word} is {other}.", sentence(other), (follow,))


_LANGUAGES = ("English", "German", "French", "Spanish")


@exchange(7)
def translation(rng: Random) -> Exchange:
    """A word in another language."""
    row, next_row = rng.sample(facts.WORDS, 2)
    source, target = (0, rng.randrange(1, 4)) if rng.random() < 0.7 else (rng.randrange(1, 4), 0)
    word, result, language = row[source], row[target], _LANGUAGES[target]
    if source == 0:
        question = rng.choice(
            [
                f'How do you say "{word}" in {language}?',
                f"What is the {language} word for {word}?",
                f"Translate {word} into {language}.",
                f'Translate "{word}" to {language}.',
                f"What is {word} in {language}?",
            ]
        )
    else:
        question = rng.choice(
            [
                f'What does the {_LANGUAGES[source]} word "{word}" mean?',
                f'Translate "{word}" from {_LANGUAGES[source]} into English.',
                f"What does {word} mean in English?",
            ]
        )
    answer = (
        f'The {language} word for "{word}" is "{result}".' if source == 0 else f'"{word}" means "{result}" in English.'
    )
    follow = Exchange(
        f"And {next_row[source]}?",
        f'The user asks for the next word. "{next_row[source]}" is "{next_row[target]}" in {language}.',
        f'The {language} word for "{next_row[source]}" is "{next_row[target]}".'
        if source == 0
        else f'"{next_row[source]}" means "{next_row[target]}" in English.',
        next_row[target],
    )
    return Exchange(
        question, f'The user wants a translation. "{word}" is "{result}" in {language}.', answer, result, (follow,)
    )


@exchange(2)
def translations(rng: Random) -> Exchange:
    """A word in three other languages."""
    row = rng.choice(facts.WORDS)
    question = rng.choice(
        [f'Translate "{row[0]}" into German, French and Spanish.', f'How do you say "{row[0]}" in other languages?']
    )
    answer = f"- German: {row[1]}\n- French: {row[2]}\n- Spanish: {row[3]}"
    return Exchange(question, f'The user wants "{row[0]}" in three languages. I make a list.', answer, answer)


@exchange(3)
def spelling(rng: Random) -> Exchange:
    """The letters of a word."""
    word = rng.choice(facts.SPELLING)
    letters = ", ".join(word)
    dashed = "-".join(word.upper())
    kind = rng.randrange(4)
    if kind == 0:
        question = rng.choice([f"Spell {word}.", f'Spell the word "{word}".', f'How do you spell "{word}"?'])
        return Exchange(question, f"The letters of {word} are {letters}.", dashed, dashed)
    if kind == 1:
        question = rng.choice([f'How many letters does "{word}" have?', f"How many letters are in {word}?"])
        answer = f'The word "{word}" has {len(word)} letters.'
        return Exchange(question, f"The letters are {letters}. That makes {len(word)}.", answer, str(len(word)))
    if kind == 2:
        question = f'What is the first letter of "{word}"?'
        return Exchange(
            question,
            f"The letters are {letters}. The first is {word[0]}.",
            f'The first letter of "{word}" is {word[0].upper()}.',
            word[0].upper(),
        )
    question = f'What is the last letter of "{word}"?'
    return Exchange(
        question,
        f"The letters are {letters}. The last is {word[-1]}.",
        f'The last letter of "{word}" is {word[-1].upper()}.',
        word[-1].upper(),
    )


def _words(rng: Random, n: int) -> list[str]:
    pool = [row[0] for row in facts.WORDS] + facts.SPELLING + [w for words in facts.CATEGORIES.values() for w in words]
    return rng.sample(sorted(set(pool)), n)


@exchange(6)
def echo(rng: Random) -> Exchange:
    """Words or a sentence to be said again."""
    n = rng.choice([1, 1, 2, 3, 4, 5, 6])
    text = " ".join(_words(rng, n))
    if rng.random() < 0.3:
        subject, thing = rng.choice(facts.NAMES), rng.choice(facts.SPELLING)
        text = rng.choice(
            [
                f"{subject} has a {thing}.",
                f"I like the {thing}.",
                f"{subject} sees the {thing} in the {rng.choice(facts.SPELLING)}.",
            ]
        )
    question = rng.choice(
        [
            f"Repeat: {text}",
            f"Repeat after me: {text}",
            f'Say "{text}".',
            f"Please say: {text}",
            f"Echo: {text}",
            f'Repeat the text "{text}".',
        ]
    )
    return Exchange(question, "The user wants me to repeat the text. I repeat it exactly.", text, text)


@exchange(2)
def repeat_times(rng: Random) -> Exchange:
    """A word several times."""
    word, n = rng.choice(facts.SPELLING), rng.randrange(2, 6)
    question = rng.choice([f'Say "{word}" {facts.NUMBER_WORDS[n]} times.', f"Write the word {word} {n} times."])
    answer = " ".join([word] * n)
    return Exchange(question, f"The user wants the word {word} {facts.NUMBER_WORDS[n]} times.", answer, answer)


@exchange(5)
def listing(rng: Random) -> Exchange:
    """Some members of a category, as bullets, numbered, or in a line."""
    category = rng.choice(list(facts.CATEGORIES))
    n = rng.choice([2, 3, 3, 3, 4, 5])
    chosen = rng.sample(facts.CATEGORIES[category], n)
    style = rng.choice(["bullets", "bullets", "numbers", "line"])
    count = rng.choice([str(n), facts.NUMBER_WORDS[n]])
    question = rng.choice([f"List {count} {category}.", f"Name {count} {category}.", f"Give me {count} {category}."])
    if style == "bullets":
        question += rng.choice(["", " Use a Markdown list.", " Use bullet points."])
        answer = "\n".join(f"- {sentence(item)}" for item in chosen)
    elif style == "numbers":
        question += rng.choice([" Number them.", " Use a numbered list."])
        answer = "\n".join(f"{i}. {sentence(item)}" for i, item in enumerate(chosen, 1))
    else:
        question += rng.choice([" Use one line.", " Separate them with commas."])
        answer = ", ".join(chosen)
    reasoning = (
        f"The user wants {facts.NUMBER_WORDS[n]} {category}. I can name {', '.join(chosen[:-1])} and {chosen[-1]}."
    )
    return Exchange(question, reasoning, answer, answer)


@exchange(2)
def sorting(rng: Random) -> Exchange:
    """Numbers or words in order."""
    if rng.random() < 0.5:
        numbers = rng.sample(range(1, 30), rng.choice([3, 4]))
        text, result = ", ".join(map(str, numbers)), ", ".join(map(str, sorted(numbers)))
        question = rng.choice([f"Sort these numbers: {text}", f"Put these numbers in order: {text}"])
        return Exchange(question, f"The smallest is {min(numbers)} and the largest is {max(numbers)}.", result, result)
    words = rng.sample(facts.CATEGORIES["fruits"], 3)
    text, result = ", ".join(words), ", ".join(sorted(words))
    return Exchange(f"Sort these words: {text}", f"In the alphabet {sorted(words)[0]} comes first.", result, result)
