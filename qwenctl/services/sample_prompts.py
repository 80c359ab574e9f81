"""Prompts that exercise a model's experts widely: languages, scripts, code, numbers. Data only, our own.

Their routing shows what is used at all; how a model is used by somebody in particular, only that person's prompts show.
"""

from __future__ import annotations

SAMPLE_PROMPTS = (
    "What is the capital of France, and which river runs through it?",
    "Explain in three sentences why the sky is blue and sunsets are red.",
    "Write a Python function that returns the n-th Fibonacci number without recursion, with a docstring.",
    "Correct this SQL: SELECT name, COUNT(*) FORM orders WHERE COUNT(*) > 3 GROUP BY name;",
    "A train leaves at 14:35 and drives 180 km at 90 km/h. When does it arrive? Show each step.",
    "Schreibe eine kurze E-Mail, in der du einen Termin auf nächsten Dienstag verschiebst.",
    "Résume en une phrase l'histoire du Petit Chaperon rouge.",
    "请用两句话介绍一下长城的历史。",
    "日本の四季について、短く説明してください。",
    "Напиши короткое стихотворение о зимнем лесе.",
    "اكتب ثلاث نصائح للنوم الجيد.",
    'Turn into JSON with the keys name, age and city: "Maria, who is 34, lives in Lisbon."',
)
