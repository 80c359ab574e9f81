# ruff: noqa: E501, SIM905 - tables read best with one row a line
"""What the demo model knows: small tables of facts from which `dialogues.py` writes its conversations."""

from typing import NamedTuple


class Country(NamedTuple):
    """A country and what can be asked about it."""

    name: str
    capital: str
    continent: str
    language: str
    currency: str


COUNTRIES = [
    Country(*row.split("|"))
    for row in """
France|Paris|Europe|French|the euro
Germany|Berlin|Europe|German|the euro
Spain|Madrid|Europe|Spanish|the euro
Italy|Rome|Europe|Italian|the euro
Portugal|Lisbon|Europe|Portuguese|the euro
Austria|Vienna|Europe|German|the euro
Greece|Athens|Europe|Greek|the euro
Ireland|Dublin|Europe|English|the euro
Finland|Helsinki|Europe|Finnish|the euro
Poland|Warsaw|Europe|Polish|the zloty
Sweden|Stockholm|Europe|Swedish|the Swedish krona
Norway|Oslo|Europe|Norwegian|the Norwegian krone
Denmark|Copenhagen|Europe|Danish|the Danish krone
Hungary|Budapest|Europe|Hungarian|the forint
Russia|Moscow|Europe|Russian|the ruble
Ukraine|Kyiv|Europe|Ukrainian|the hryvnia
Japan|Tokyo|Asia|Japanese|the yen
China|Beijing|Asia|Chinese|the yuan
India|New Delhi|Asia|Hindi|the rupee
South Korea|Seoul|Asia|Korean|the won
Thailand|Bangkok|Asia|Thai|the baht
Vietnam|Hanoi|Asia|Vietnamese|the dong
Turkey|Ankara|Asia|Turkish|the lira
Egypt|Cairo|Africa|Arabic|the Egyptian pound
Morocco|Rabat|Africa|Arabic|the dirham
Kenya|Nairobi|Africa|Swahili|the Kenyan shilling
Nigeria|Abuja|Africa|English|the naira
Canada|Ottawa|North America|English|the Canadian dollar
Mexico|Mexico City|North America|Spanish|the peso
Cuba|Havana|North America|Spanish|the Cuban peso
Brazil|Brasilia|South America|Portuguese|the real
Argentina|Buenos Aires|South America|Spanish|the Argentine peso
Chile|Santiago|South America|Spanish|the Chilean peso
Peru|Lima|South America|Spanish|the sol
Australia|Canberra|Australia|English|the Australian dollar
""".strip().splitlines()
]

# English | German (question form, name, capital) | French | Spanish: for questions in those languages.
CAPITALS_ABROAD = [
    tuple(row.split("|"))
    for row in """
Frankreich|Paris|la France|Paris|Francia|París
Deutschland|Berlin|l'Allemagne|Berlin|Alemania|Berlín
Spanien|Madrid|l'Espagne|Madrid|España|Madrid
Italien|Rom|l'Italie|Rome|Italia|Roma
Portugal|Lissabon|le Portugal|Lisbonne|Portugal|Lisboa
Österreich|Wien|l'Autriche|Vienne|Austria|Viena
Griechenland|Athen|la Grèce|Athènes|Grecia|Atenas
Polen|Warschau|la Pologne|Varsovie|Polonia|Varsovia
Russland|Moskau|la Russie|Moscou|Rusia|Moscú
Japan|Tokio|le Japon|Tokyo|Japón|Tokio
China|Peking|la Chine|Pékin|China|Pekín
Ägypten|Kairo|l'Égypte|Le Caire|Egipto|El Cairo
""".strip().splitlines()
]

COLOURS = dict(
    row.split("|")
    for row in """
the sky|blue
grass|green
snow|white
blood|red
a lemon|yellow
a banana|yellow
an orange|orange
a carrot|orange
coal|black
milk|white
a tomato|red
a strawberry|red
a leaf|green
a cucumber|green
the sun|yellow
the sea|blue
chocolate|brown
a polar bear|white
a raven|black
a flamingo|pink
an elephant|grey
a frog|green
a cherry|red
lavender|purple
""".strip().splitlines()
)


class Animal(NamedTuple):
    """An animal and what can be asked about it."""

    name: str
    kind: str
    n_legs: str
    sound: str
    food: str
    young: str


ANIMALS = [
    Animal(*row.split("|"))
    for row in """
dog|mammal|four|barks|meat|puppy
cat|mammal|four|meows|fish and meat|kitten
cow|mammal|four|moos|grass|calf
horse|mammal|four|neighs|grass and hay|foal
sheep|mammal|four|bleats|grass|lamb
pig|mammal|four|oinks|almost everything|piglet
lion|mammal|four|roars|meat|cub
wolf|mammal|four|howls|meat|pup
mouse|mammal|four|squeaks|grain and cheese|pup
duck|bird|two|quacks|plants and insects|duckling
hen|bird|two|clucks|grain|chick
owl|bird|two|hoots|mice|owlet
crow|bird|two|caws|almost everything|chick
frog|amphibian|four|croaks|insects|tadpole
snake|reptile|no|hisses|small animals|snakelet
bee|insect|six|buzzes|nectar|larva
ant|insect|six|makes hardly any sound|seeds and insects|larva
spider|arachnid|eight|makes hardly any sound|insects|spiderling
""".strip().splitlines()
]

OPPOSITES = [
    tuple(pair.split("/"))
    for pair in (
        "hot/cold big/small tall/short fast/slow light/dark day/night happy/sad good/bad up/down left/right open/closed "
        "full/empty hard/soft wet/dry old/young new/old rich/poor strong/weak early/late near/far high/low clean/dirty "
        "loud/quiet easy/difficult first/last black/white true/false thick/thin wide/narrow deep/shallow inside/outside "
        "heavy/light begin/end buy/sell give/take win/lose push/pull question/answer friend/enemy love/hate war/peace "
        "yes/no before/after always/never summer/winter north/south east/west"
    ).split()
]

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()

UNITS = [
    tuple(row.split("|"))
    for row in """
centimetres|a metre|100
metres|a kilometre|1000
millimetres|a centimetre|10
grams|a kilogram|1000
kilograms|a tonne|1000
millilitres|a litre|1000
seconds|a minute|60
minutes|an hour|60
hours|a day|24
days|a week|7
months|a year|12
days|a year|365
years|a century|100
years|a decade|10
bits|a byte|8
bytes|a kibibyte|1024
""".strip().splitlines()
]

PLACES = [
    tuple(row.split("|"))
    for row in """
What is the largest ocean?|the largest ocean|The largest ocean is the Pacific Ocean.
What is the largest planet?|the largest planet of the solar system|The largest planet of the solar system is Jupiter.
What is the smallest planet?|the smallest planet of the solar system|The smallest planet of the solar system is Mercury.
What is the highest mountain?|the highest mountain on Earth|The highest mountain on Earth is Mount Everest.
What is the longest river in Africa?|the longest river in Africa|The longest river in Africa is the Nile.
What is the largest continent?|the largest continent|The largest continent is Asia.
What is the smallest continent?|the smallest continent|The smallest continent is Australia.
What is the largest country?|the largest country by area|The largest country by area is Russia.
Which river flows through Paris?|the river that flows through Paris|The river that flows through Paris is the Seine.
Which river flows through London?|the river that flows through London|The river that flows through London is the Thames.
Which river flows through Vienna?|the river that flows through Vienna|The river that flows through Vienna is the Danube.
Which planet do we live on?|the planet we live on|We live on planet Earth.
How many continents are there?|the number of continents|There are seven continents.
How many oceans are there?|the number of oceans|There are five oceans.
How many planets are there in the solar system?|the number of planets|There are eight planets in the solar system.
How many letters are in the English alphabet?|the letters of the English alphabet|There are 26 letters in the English alphabet.
How many colours does a rainbow have?|the colours of a rainbow|A rainbow has seven colours.
Where does the sun rise?|where the sun rises|The sun rises in the east.
Where does the sun set?|where the sun sets|The sun sets in the west.
At what temperature does water boil?|the boiling point of water|Water boils at 100 degrees Celsius at sea level.
At what temperature does water freeze?|the freezing point of water|Water freezes at 0 degrees Celsius.
What is water made of?|the composition of water|Water is made of hydrogen and oxygen.
What do bees make?|what bees make|Bees make honey.
What do plants need to grow?|what plants need|Plants need light, water and air to grow.
What is the capital of the United States?|the capital of the United States|The capital of the United States is Washington, D.C.
What is the capital of England?|the capital of England|The capital of England is London.
What is the capital of the United Kingdom?|the capital of the United Kingdom|The capital of the United Kingdom is London.
Who wrote Hamlet?|the author of Hamlet|Hamlet was written by William Shakespeare.
Who wrote Faust?|the author of Faust|Faust was written by Johann Wolfgang von Goethe.
Who painted the Mona Lisa?|the painter of the Mona Lisa|The Mona Lisa was painted by Leonardo da Vinci.
""".strip().splitlines()
]

# English | German | French | Spanish
WORDS = [
    tuple(row.split("|"))
    for row in """
dog|Hund|chien|perro
cat|Katze|chat|gato
horse|Pferd|cheval|caballo
bird|Vogel|oiseau|pájaro
fish|Fisch|poisson|pez
house|Haus|maison|casa
door|Tür|porte|puerta
window|Fenster|fenêtre|ventana
tree|Baum|arbre|árbol
flower|Blume|fleur|flor
water|Wasser|eau|agua
fire|Feuer|feu|fuego
bread|Brot|pain|pan
milk|Milch|lait|leche
cheese|Käse|fromage|queso
apple|Apfel|pomme|manzana
book|Buch|livre|libro
table|Tisch|table|mesa
chair|Stuhl|chaise|silla
sun|Sonne|soleil|sol
moon|Mond|lune|luna
star|Stern|étoile|estrella
day|Tag|jour|día
night|Nacht|nuit|noche
man|Mann|homme|hombre
woman|Frau|femme|mujer
child|Kind|enfant|niño
friend|Freund|ami|amigo
city|Stadt|ville|ciudad
street|Straße|rue|calle
red|rot|rouge|rojo
blue|blau|bleu|azul
green|grün|vert|verde
white|weiß|blanc|blanco
black|schwarz|noir|negro
one|eins|un|uno
two|zwei|deux|dos
three|drei|trois|tres
yes|ja|oui|sí
no|nein|non|no
hello|hallo|bonjour|hola
thank you|danke|merci|gracias
""".strip().splitlines()
]

CATEGORIES = {
    "fruits": "apple banana orange pear cherry grape lemon plum peach mango".split(),
    "vegetables": "carrot potato onion cabbage tomato pea bean cucumber spinach leek".split(),
    "animals": "dog cat horse cow sheep lion wolf bear fox mouse".split(),
    "birds": "eagle owl crow duck swan robin sparrow gull stork hen".split(),
    "colours": "red blue green yellow orange purple black white brown pink".split(),
    "planets": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split(),
    "countries": "France Germany Spain Italy Japan China India Brazil Canada Kenya".split(),
    "capitals": "Paris Berlin Madrid Rome Tokyo Beijing Cairo Lima Oslo Vienna".split(),
    "trees": "oak pine birch maple willow elm ash beech fir cedar".split(),
    "programming languages": "Python C Rust Go Java JavaScript Ruby Haskell Lua Perl".split(),
    "musical instruments": "piano violin guitar flute drum trumpet harp cello organ oboe".split(),
    "days of the week": DAYS,
}

SPELLING = (
    "cat dog sun moon tree book fish bird house water apple bread green black white horse table chair river stone cloud "
    "paper music light night world heart hand door milk rain snow wind fire gold ship star leaf king queen model token llama"
).split()

NAMES = (
    "Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karl Lena Max Nora Oscar Paula Tom Maria Peter Sam".split()
)

DEFINITIONS = {
    "GGUF": (
        "GGUF is a file format for language models. One file holds the weights, the tokenizer and the metadata.",
        "It is the format that llama.cpp reads. The weights can be stored in full precision or quantized to a few bits each.",
    ),
    "quantization": (
        "Quantization stores the weights of a model with fewer bits, for example 4 instead of 16.",
        "The model becomes smaller and faster to read from memory. The price is a small loss of accuracy.",
    ),
    "a mixture of experts": (
        "A mixture of experts is a network whose layers have many expert blocks. A router picks a few of them for each token.",
        "Only the chosen experts are computed, so a large model needs little work for each token.",
    ),
    "a language model": (
        "A language model is a program that predicts the next token of a text.",
        "By predicting one token after another it can write answers, stories and code.",
    ),
    "a token": (
        "A token is a small piece of text, such as a word or a part of a word.",
        "A language model reads and writes text as a sequence of tokens.",
    ),
    "a tokenizer": (
        "A tokenizer splits text into tokens and gives each token a number.",
        "It also turns the numbers back into text.",
    ),
    "perplexity": (
        "Perplexity measures how well a language model predicts a text. Lower is better.",
        "A perplexity of ten means that the model is as unsure as if it chose among ten equally likely tokens.",
    ),
    "llama.cpp": (
        "llama.cpp is a program and a library that runs language models on ordinary computers.",
        "It is written in C and C++ and works on many processors and graphics cards.",
    ),
    "qwenctl": (
        "qwenctl is a command line program that converts language models to 4-bit files and runs them.",
        "It uses llama.cpp as its engine and works on the hardware that a person has.",
    ),
    "a context window": (
        "The context window is the number of tokens that a model can look at, counting the prompt and the answer.",
        "Text that is further back is not seen by the model.",
    ),
    "a KV cache": (
        "The KV cache keeps the keys and values of earlier tokens, so that they need not be computed again.",
        "It grows with the length of the text.",
    ),
    "temperature": (
        "Temperature controls how random the sampled text is. A low temperature makes the model choose likely tokens.",
        "At temperature zero the most likely token is always taken.",
    ),
    "a router": (
        "In a mixture of experts the router is a small layer that scores the experts for each token.",
        "The experts with the best scores are computed, and their outputs are added with weights.",
    ),
    "Python": (
        "Python is a programming language that is easy to read and to learn.",
        "It is used for scripts, web sites, data analysis and machine learning.",
    ),
    "Linux": (
        "Linux is the kernel of a free operating system.",
        "Together with other free programs it makes up systems such as Debian.",
    ),
    "Debian": (
        "Debian is a free operating system made by volunteers from all over the world.",
        "It contains tens of thousands of packages that can be installed with one command.",
    ),
    "a CPU": (
        "A CPU is the central processing unit of a computer. It carries out the instructions of programs.",
        "Modern CPUs have several cores that work at the same time.",
    ),
    "a GPU": (
        "A GPU is a processor with very many small cores, first made for drawing graphics.",
        "It is good at multiplying matrices, so language models run fast on it.",
    ),
    "RAM": (
        "RAM is the working memory of a computer. Programs keep the data there that they are using.",
        "It is much faster than a disk, but it is emptied when the power goes off.",
    ),
    "an imatrix": (
        "An importance matrix tells which weights of a model matter most. It is measured on sample text.",
        "Quantization uses it to keep the important weights more exact.",
    ),
    "a prompt": (
        "A prompt is the text that a user gives to a language model.",
        "The model reads it and writes an answer.",
    ),
    "recursion": (
        "Recursion means that a function calls itself on a smaller problem.",
        "It needs a case that is solved directly, so that it comes to an end.",
    ),
}

SNIPPETS = [
    ("adds two numbers", "def add(a, b):\n    return a + b", "It returns the sum of its two arguments."),
    ("multiplies two numbers", "def multiply(a, b):\n    return a * b", "It returns the product of its two arguments."),
    ("reverses a string", "def reverse(text):\n    return text[::-1]", "The slice walks through the text backwards."),
    ("computes the factorial of a number", "def factorial(n):\n    if n < 2:\n        return 1\n    return n * factorial(n - 1)", "The function calls itself until it reaches 1."),
    ("checks whether a number is even", "def is_even(n):\n    return n % 2 == 0", "A number is even when nothing is left after dividing it by 2."),
    ("finds the largest number in a list", "def largest(numbers):\n    return max(numbers)", "The built-in function `max` does the work."),
    ("prints the numbers from 1 to 10", "for n in range(1, 11):\n    print(n)", "The end of a range is not included, so it is 11."),
    ("prints hello world", 'print("Hello, world!")', "Run it with the Python interpreter."),
    ("counts the words in a text", "def count_words(text):\n    return len(text.split())", "`split` cuts the text at white space."),
    ("sums a list of numbers", "def total(numbers):\n    return sum(numbers)", "The built-in function `sum` does the work."),
    ("reads a file", 'def read(path):\n    with open(path) as file:\n        return file.read()', "The `with` statement closes the file."),
    ("computes Fibonacci numbers", "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a", "Each number is the sum of the two before it."),
]  # fmt: skip
