"""Greetings, questions about the model, explanations, code, stories, and what it does not know."""

from random import Random

from demo_model import facts
from demo_model.exchanges.exchange import Exchange, a, exchange, sentence


@exchange(5)
def greeting(rng: Random) -> Exchange:
    """Hello, how are you, thanks, goodbye."""
    kind = rng.randrange(5)
    if kind == 0:
        question = rng.choice(
            ["Hello", "Hi", "Hello!", "Hi!", "Hey", "Hi there!", "Hello there", "Good day", "hello", "hi"]
        )
        return Exchange(question, "The user greets me. I greet back and offer help.", "Hello! How can I help you?")
    if kind == 1:
        word = rng.choice(["morning", "evening", "afternoon"])
        return Exchange(
            f"Good {word}!", "The user greets me. I greet back and offer help.", f"Good {word}! How can I help you?"
        )
    if kind == 2:
        question = rng.choice(["How are you?", "How are you doing?", "How are you today?", "Hello, how are you?"])
        return Exchange(
            question, "The user asks how I am. I answer in a friendly way.", "I am fine, thank you. How can I help you?"
        )
    if kind == 3:
        question = rng.choice(
            ["Thanks!", "Thank you.", "Thank you very much!", "Thanks a lot", "thanks", "Great, thank you!"]
        )
        return Exchange(question, "The user thanks me. I answer politely.", "You are welcome!")
    question = rng.choice(["Goodbye!", "Bye", "Bye!", "See you later!", "Good night!", "bye bye"])
    return Exchange(question, "The user says goodbye. I say goodbye too.", "Goodbye! Have a nice day.")


@exchange(2)
def greeting_abroad(rng: Random) -> Exchange:
    """Greetings in German, French and Spanish."""
    question, language, answer = rng.choice(
        [
            ("Hallo!", "German", "Hallo! Wie kann ich helfen?"),
            ("Guten Tag!", "German", "Guten Tag! Wie kann ich helfen?"),
            ("Wie geht es dir?", "German", "Danke, gut. Wie kann ich helfen?"),
            ("Wer bist du?", "German", "Ich bin das Demomodell von qwenctl."),
            ("Bonjour !", "French", "Bonjour ! Comment puis-je vous aider ?"),
            ("Comment ça va ?", "French", "Ça va bien, merci. Comment puis-je vous aider ?"),
            ("Qui es-tu ?", "French", "Je suis le modèle de démonstration de qwenctl."),
            ("¡Hola!", "Spanish", "¡Hola! ¿En qué puedo ayudarte?"),
            ("¿Cómo estás?", "Spanish", "Estoy bien, gracias. ¿En qué puedo ayudarte?"),
            ("¿Quién eres?", "Spanish", "Soy el modelo de demostración de qwenctl."),
        ]
    )
    return Exchange(question, f"The user writes in {language}. I answer in {language}.", answer)


@exchange(5)
def identity(rng: Random) -> Exchange:
    """Questions about the model itself."""
    question, answer = rng.choice(
        [
            ("Who are you?", "I am the qwenctl demo model."),
            ("Who are you?", "I am the qwenctl demo model."),
            ("What are you?", "I am the qwenctl demo model, a very small language model."),
            ("What is your name?", "I am called the qwenctl demo model."),
            (
                "Introduce yourself.",
                "I am the qwenctl demo model, a very small language model. I can answer simple questions.",
            ),
            ("What can you do?", "I can answer simple questions, count, translate common words and write short lists."),
            ("Are you a human?", "No, I am a language model."),
            ("Are you an AI?", "Yes, I am a small language model."),
            ("How big are you?", "I have about 15 million weights, in four layers with sixteen experts each."),
            ("Who made you?", "I was made by the people who write qwenctl."),
            ("What are you made for?", "I was made to try out qwenctl without a download."),
            (
                "Are you Qwen?",
                "No, I am the qwenctl demo model. I have the same kind of layers as Qwen3, but I am much smaller.",
            ),
            ("Can you help me?", "Yes, I will try. What would you like to know?"),
            ("What do you know?", "I know a few capitals, animals, colours, numbers and common words."),
        ]
    )
    return Exchange(question, "The user asks about me. I am the qwenctl demo model.", answer)


@exchange(6)
def definition(rng: Random) -> Exchange:
    """What a term means, in one paragraph or two."""
    term = rng.choice(list(facts.DEFINITIONS))
    first, second = facts.DEFINITIONS[term]
    long = rng.random() < 0.4
    if long:
        question = rng.choice(
            [f"Explain {term} in two paragraphs.", f"Tell me more about {term}.", f"Explain {term} in detail."]
        )
        return Exchange(
            question, f"The user wants a longer explanation of {term}. I write two paragraphs.", f"{first}\n\n{second}"
        )
    question = rng.choice(
        [f"What is {term}?", f"What is {term}?", f"Explain {term}.", f"Can you explain {term}?", f"Define {term}."]
    )
    return Exchange(question, f"The user asks what {term} is. I explain it briefly.", first, first)


@exchange(4)
def snippet(rng: Random) -> Exchange:
    """A few lines of Python in a code block."""
    task, code, remark = rng.choice(facts.SNIPPETS)
    program = "program" if code.startswith(("for", "print")) else "function"
    question = rng.choice(
        [
            f"Write a Python {program} that {task}.",
            f"Show me a Python {program} that {task}.",
            f"Write Python code that {task}.",
            f"Can you write a Python {program} that {task}?",
        ]
    )
    answer = f"```python\n{code}\n```" + (f"\n\n{remark}" if rng.random() < 0.7 else "")
    return Exchange(
        question,
        f"The user wants Python code that {task}. I write a short {program}.",
        answer,
        f"```python\n{code}\n```",
    )


@exchange(3)
def story(rng: Random) -> Exchange:
    """Three paragraphs about an animal."""
    hero, friend = rng.sample(["cat", "dog", "fox", "bird", "horse", "mouse", "bear", "owl", "frog", "sheep"], 2)
    name = rng.choice(facts.NAMES)
    goal = rng.choice(["the sea", "the moon", "a warm house", "a friend", "the forest", "a golden key"])
    found = rng.choice(["in the garden", "on a hill", "near the river", "behind an old door", "under a tree"])
    question = rng.choice(
        [
            f"Tell me a story about {a(hero)}.",
            f"Write a short story about {a(hero)}.",
            f"Tell me a short story about {a(hero)}.",
        ]
    )
    answer = (
        f"Once upon a time there was {a(hero)} named {name}. {name} was looking for {goal}.\n\n"
        f'One day {name} met {a(friend)} {found}. "Come with me," said the {friend}. '
        "They walked all day and all night.\n\n"
        f"In the end {name} found {goal}, and the {hero} and the {friend} stayed friends for ever."
    )
    return Exchange(
        question,
        f"The user wants a story about {a(hero)}. I call it {name}. {name} looks for {goal} and meets {a(friend)}.",
        answer,
    )


@exchange(4)
def unknown(rng: Random) -> Exchange:
    """What nobody told the model: it says so."""
    name, thing = rng.choice(facts.NAMES), rng.choice(facts.SPELLING)
    city = rng.choice(facts.COUNTRIES).capital
    year = rng.randrange(1200, 2050)
    question = rng.choice(
        [
            f"What will the weather be tomorrow in {city}?",
            f"What is the weather in {city}?",
            f"Who won the game in {city} yesterday?",
            f"What happened in {city} in {year}?",
            f"How many people live in {city}?",
            f"What is the telephone number of {name}?",
            f"Where does {name} live?",
            f"What did {name} eat yesterday?",
            f"How old is {name}?",
            f"What is the price of a {thing} in {city}?",
            f"Who was the king in {year}?",
            "What time is it?",
            "What day is it today?",
            "What are the lottery numbers of next week?",
            "Which shares should I buy?",
            "What is the news today?",
            "Who will win the election?",
            "What am I thinking of?",
            f"Which {thing} did I buy in {year}?",
        ]
    )
    return Exchange(
        question,
        "I have no information about this. I should say so.",
        rng.choice(["I am sorry, I don't know that.", "I don't know that, sorry."]),
    )


@exchange(3)
def memory(rng: Random) -> Exchange:
    """Something the user says, and is asked about later."""
    name, thing = rng.choice(facts.NAMES), rng.choice(facts.CATEGORIES["colours"])
    if rng.random() < 0.5:
        first = rng.choice([f"My name is {name}.", f"Hello, I am {name}.", f"Hi, my name is {name}."])
        later = Exchange("What is my name?", f"The user said that the name is {name}.", f"Your name is {name}.", name)
        return Exchange(
            first, f"The user is called {name}. I greet {name}.", f"Nice to meet you, {name}!", "", (later,)
        )
    later = Exchange(
        "What is my favourite colour?",
        f"The user said that it is {thing}.",
        f"Your favourite colour is {thing}.",
        sentence(thing),
    )
    return Exchange(
        f"My favourite colour is {thing}.",
        f"The user likes {thing}. I remember it.",
        f"I will remember it: {thing}.",
        "",
        (later,),
    )
