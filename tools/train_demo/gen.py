#!/usr/bin/env python3
"""Writes the text that the demo pair is trained on: short chats in Gemma 4's own format (profile g2-small).

Everything is drawn from a seeded generator, so the same seed gives the same bytes. A held-out prompt differs from all
training text by construction: names and cities from pools of their own, pairs of numbers and of story parts chosen by a
hash, and one wording of each fixed question kept back.

A conversation is {system, tools, thinking, turns: [(user text, [step, ...])]}; a step is {thought, content} or
{thought, call: (name, args), result}. render() turns it into [(text, trained?)] pieces; pieces end only where the
tokenizer cuts anyway (a special token or a newline), so they may be tokenised one by one.

usage: gen.py [--seed N] [--n DOCS]      prints some conversations
"""
import argparse, random, zlib
from words import *
from talk import *

Q = '<|"|>'
HOLD = 8                                                # one in HOLD number pairs and story parts is held out


def held_hash(*parts):
    return zlib.crc32(":".join(map(str, parts)).encode()) % HOLD == 0


class Gen:
    def __init__(self, seed, held=False, mix=4):
        self.r, self.held, self.mix = random.Random(seed), held, mix

    # ---- choices -------------------------------------------------------------------------------------------------
    def one(self, seq):
        return seq[self.r.randrange(len(seq))]

    def skew(self, seq):
        """Mostly the first, sometimes a later one: keeps the text varied but its best guess clear."""
        for x in seq[:-1]:
            if self.r.random() < 0.62:
                return x
        return seq[-1]

    def chance(self, p):
        return self.r.random() < p

    def sample(self, seq, n):
        return self.r.sample(seq, n)

    def name(self):
        if self.held and self.chance(0.6):
            return self.one(NAMES_HELD)
        if self.mix >= 3 and not self.held and self.chance(0.35):
            return self.word().capitalize()
        if self.held or self.chance(0.30):
            return self.one(SYLL_A) + "".join(self.one(SYLL_B) for _ in range(self.r.choice((1, 1, 2)))) + self.one(SYLL_C)
        return self.one(NAMES)

    def word(self):
        """a made-up word of any letters"""
        c, v = "bcdfghjklmnpqrstvwxyz", "aeiouy"
        w = "".join(self.one(c) + self.one(v) if self.chance(0.75) else self.one(v) + self.one(c) + self.one(c)
                    for _ in range(self.r.choice((1, 2, 2, 3))))
        return w + (self.one(c) if self.chance(0.4) else "")

    def names(self, n):
        out = []
        while len(out) < n:
            x = self.name()
            if x not in out:
                out.append(x)
        return out

    def city(self):
        return self.one(CITIES_HELD if self.held else CITIES)

    def ask(self, wordings):
        return wordings[-1] if self.held else self.one(wordings[:-1])

    def numbers(self, op, lo, hi, order=False):
        while True:
            a, b = self.r.randint(lo, hi), self.r.randint(lo, hi)
            if order and b > a:
                a, b = b, a
            if op == "*" or held_hash(op, a, b) == self.held:      # the times table is learned by heart
                return a, b

    # ---- kinds: each returns turns -------------------------------------------------------------------------------
    def about(self):
        q, a = self.one(ABOUT)
        return [(self.ask(q), [{"thought": "The user asks about " + ("me." if "you" in q[0].lower() else "a basic idea.") +
                                " I know this.", "content": a}])]

    def small(self):
        q, a = self.one(SMALL)
        return [(self.ask(q), [{"thought": "A friendly remark. I answer in kind.", "content": a}])]

    def my_name(self):
        n = self.name()
        t = [(self.one([f"My name is {n}.", f"I am {n}.", f"Hi, I am {n}.", f"Hello, my name is {n}."]),
              [{"thought": f"The user is called {n}.", "content": f"Nice to meet you, {n}!"}])]
        for _ in range(self.r.choice((0, 0, 1))):
            t += self.one([self.small, self.arith, self.fact])()
        t += [(self.one(["What is my name?", "Do you remember my name?", "Who am I?", "Can you tell me my name?"]),
               [{"thought": f"The user said the name {n}.", "content": f"Your name is {n}."}])]
        return t

    def arith(self):
        k = self.r.choice("+++---**ww")
        if k == "w":
            return self.word_problem()
        if k == "*":
            a, b = self.numbers("*", 0, 10)
            c, w, th = a * b, "times", f"{a} times {b} is {a * b}."
        elif k == "+":
            a, b = self.numbers("+", 0, self.top())
            c, w = a + b, "plus"
            th = f"Tens: {a // 10} + {b // 10} = {a // 10 + b // 10}. Ones: {a % 10} + {b % 10} = {a % 10 + b % 10}. Together {c}."
        else:
            a, b = self.numbers("-", 0, self.top(), order=True)
            c, w = a - b, "minus"
            th = f"From {b} up to {a} it is {c}."
        q = self.one([f"What is {a} {k} {b}?", f"What is {a} {w} {b}?", f"{a} {k} {b} = ?", f"How much is {a} {w} {b}?",
                      f"Calculate {a} {k} {b}.", f"{a} {k} {b}", f"Can you tell me what {a} {w} {b} is?"])
        return [(q, [{"thought": th, "content": f"{a} {k} {b} = {c}."}])]

    def top(self):
        return 50 if self.mix == 1 or not self.chance((0.8, 0.95, 0.5)[self.mix - 2]) else 20

    def sums(self):
        """many small sums in one conversation"""
        return [t for _ in range(self.r.randint(4, 12)) for t in self.arith()]

    def copies(self):
        """answers that repeat unusual words exactly"""
        turns = []
        for _ in range(self.r.randint(1, 4)):
            k = self.r.randrange(3 if self.mix < 3 else 5)
            if k > 2:
                t = " ".join(self.word() for _ in range(self.r.randint(2, 8)))
            elif k == 0:
                t = " ".join(self.names(self.r.randint(3, 9)))
            elif k == 1:
                t = ", ".join(self.names(self.r.randint(2, 6)))
            else:
                t = " ".join(str(self.r.randrange(10 ** self.r.randint(1, 5))) for _ in range(self.r.randint(1, 5)))
            turns.append((self.one(["Repeat after me: ", "Say this: ", "Repeat this text: ", "Say exactly this: "]) + t,
                          [{"thought": "I repeat the text.", "content": t}]))
        return turns

    def word_problem(self):
        n, th = self.name(), self.one(["apples", "books", "coins", "pears", "cups", "shells", "eggs", "stamps"])
        if self.chance(0.5):
            a, b = self.numbers("w+", 1, 12)
            v = self.one(["buys", "finds", "gets"])
            return [(f"{n} has {a} {th} and {v} {b} more. How many {th} does {n} have now?",
                     [{"thought": f"{a} + {b} = {a + b}.", "content": f"{n} has {a + b} {th} now."}])]
        a, b = self.numbers("w-", 1, 12, order=True)
        v = self.one(["loses", "sells", "gives away"])
        return [(f"{n} has {a} {th} and {v} {b}. How many {th} are left?",
                 [{"thought": f"{a} - {b} = {a - b}.", "content": f"{n} has {a - b} {th} left."}])]

    def make_facts(self, n):
        """[(sentence, [(question, answer)])], all about different people or things"""
        out, names, used = [], self.names(n), set()
        cities = self.sample(CITIES_HELD if self.held else CITIES, min(n, 10))
        for i in range(n):
            p, k = names[i], self.r.randrange(9)
            if k == 0 and i < len(cities):
                c = cities[i]
                s = f"{p} lives in {c}."
                q = [(f"Where does {p} live?", s), (f"Who lives in {c}?", s), (f"In which city does {p} live?", s)]
            elif k == 1:
                c = self.one(COLOURS)
                s = f"{p}'s favourite colour is {c}."
                q = [(f"What is {p}'s favourite colour?", s), (f"Which colour does {p} like best?", s)]
            elif k == 2:
                a, m = self.one(PETS), self.name()
                s = f"{p} has a {a} called {m}."
                q = [(f"What is the name of {p}'s {a}?", f"{p}'s {a} is called {m}."), (f"Which pet does {p} have?", s)]
            elif k in (3, 4):
                while True:
                    c, t = self.one(COLOURS), self.one(THINGS)
                    if (c, t) not in used:
                        break
                used.add((c, t))
                d = "".join(str(self.r.randrange(10)) for _ in range(4))
                s = f"The code for the {c} {t} is {d}."
                q = [(f"What is the code for the {c} {t}?", s), (f"Which code belongs to the {c} {t}?", f"The code for the {c} {t} is {d}.")]
            elif k == 5:
                j = self.one(JOBS)
                s = f"{p} works as a {j}."
                q = [(f"What does {p} do for a living?", s), (f"What is {p}'s job?", s)]
            elif k == 6:
                d, h = self.one(DAYS), self.r.randint(1, 12)
                s = f"{p} comes on {d} at {h}."
                q = [(f"When does {p} come?", s), (f"On which day does {p} come?", f"{p} comes on {d}.")]
            elif k == 7:
                a = self.r.randint(10, 89)
                s = f"{p} is {a} years old."
                q = [(f"How old is {p}?", s), (f"What is {p}'s age?", s)]
            else:
                f = self.one(FOODS)
                s = f"{p} likes {f}."
                q = [(f"What does {p} like to eat?", s), (f"Which food does {p} like?", s)]
            out.append((s, q))
        return out

    def filler(self):
        n = self.name()
        return self.one([
            "The weather was mild and the streets were quiet.", "Nobody knew how long the meeting would take.",
            f"{n} made a pot of tea and opened the window.", "Outside, a small bird sang on the roof.",
            "There was nothing new in the paper that day.", "The train was late again, as it often was.",
            "It is a long way, but the road is good.", f"{n} looked for the old map and did not find it.",
            "The rest of the page was empty.", "All the others had already gone home."])

    def lookup(self, n=None):
        n = n or self.r.choice((2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 10))
        facts = self.make_facts(n)
        lines = [f[0] for f in facts]
        if self.chance(0.25):
            for _ in range(self.r.randint(1, n)):
                lines.insert(self.r.randrange(len(lines) + 1), self.filler())
        style = self.r.randrange(3)
        body = "\n".join("- " + x for x in lines) if style == 0 else " ".join(lines) if style == 1 else "\n".join(lines)
        head = self.one(["Here are some facts:", "Read this:", "Here is a text:", "Notes:", "Please remember this:"])
        turns, first = [], True
        for s, qs in self.sample(facts, min(len(facts), self.r.choice((1, 2, 3, 3)))):
            q, a = self.one(qs)
            if self.chance(0.06):
                m = self.name()
                if not any(m in x for x in lines):
                    q, a, s = self.one([f"Where does {m} live?", f"How old is {m}?", f"What does {m} like to eat?"]), "The text does not say.", None
            th = f'The text says: "{s}"' if s else "The text says nothing about this."
            turns.append(((f"{head}\n{body}\n\n{q}" if first else q), [{"thought": th, "content": a}]))
            first = False
        return turns

    def fact(self):
        k = self.r.randrange(3)
        if k == 0:
            c = self.one(sorted(CAPITALS))
            q = [f"What is the capital of {c}?", f"Which city is the capital of {c}?", f"Name the capital of {c}.", f"Tell me the capital of {c}."]
            a, th = f"The capital of {c} is {CAPITALS[c]}.", f"{c} has the capital {CAPITALS[c]}."
        elif k == 1:
            x = self.one(sorted(SOUNDS))
            q = [f"What sound does a {x} make?", f"What does the {x} say?", f"Which sound does a {x} make?", f"How does a {x} sound?"]
            a, th = f'A{"n" if x[0] in "aeiou" else ""} {x} says {SOUNDS[x]}.', f"The {x} says {SOUNDS[x]}."
        else:
            x, y = self.one(sorted(OPPOSITES.items()))
            if self.chance(0.5):
                x, y = y, x
            q = [f"What is the opposite of {x}?", f"What is the opposite of the word {x}?", f"Give me the opposite of {x}.", f"Name the opposite of {x}."]
            a, th = f"The opposite of {x} is {y}.", f"{x} and {y} are opposites."
        return [(self.ask(q), [{"thought": th, "content": a}])]

    def unknown(self):
        """anything else: say so"""
        n, o, a, c, ci = self.name(), self.one(OBJECTS), self.one(ANIMALS), self.one(COLOURS), self.city()
        q = self.ask([f"Who invented the {o}?", f"How far is it to {ci}?", f"Why is the {a} {c}?", f"Translate {o} into French.",
                      f"What does {n} think about the {o}?", f"Who is {n}?", f"How heavy is a {a}?", f"Who won the game in {ci}?",
                      f"What is the price of gold in {ci}?", f"How many people live in {ci}?", f"When was the {o} made?",
                      f"Explain the history of the {o}.", f"Which is better, the {a} or the {o}?", f"Write a poem about a {o}.",
                      f"Is the {a} older than the {o}?"])
        return [(q, [{"thought": "I have not learned this.", "content": "I do not know that. I am only a small demo model."}])]

    def lists(self):
        k = self.r.randrange(6)
        if k <= 1:
            while True:
                c, n = self.one(sorted(CATEGORIES)), self.r.randint(2, 8)
                if held_hash(c, n) == self.held:
                    break
            w = NUMBER_WORDS[n]
            q = self.one([f"Name {w} {c}.", f"List {w} {c}.", f"Give me a list of {w} {c}.", f"Tell me {n} {c}.", f"Write down {n} {c}."])
            a, th = "\n".join(f"{i + 1}. {x}" for i, x in enumerate(CATEGORIES[c][:n])), f"I need {n} {c}."
        elif k == 2:
            while True:
                a0, n = self.r.randint(0, 60), self.r.randint(3, 9)
                up = self.chance(0.7) or a0 < n
                if held_hash("count", a0, n) == self.held:
                    break
            b0 = a0 + n if up else a0 - n
            q = self.one([f"Count from {a0} to {b0}.", f"Please count from {a0} to {b0}.", f"Can you count from {a0} to {b0}?"])
            a, th = ", ".join(map(str, range(a0, b0 + (1 if up else -1), 1 if up else -1))), "I count " + ("up." if up else "down.")
        elif k == 3:
            pool = [x for c in ("fruits", "vegetables", "animals", "birds", "tools", "drinks") for x in CATEGORIES[c]] + FOODS + OBJECTS
            xs = self.sample(sorted(set(pool)), self.r.randint(3, 7))
            t = ", ".join(xs[:-1]) + " and " + xs[-1]
            q = self.one([f"I have to buy {t}. Make a list.", f"Make a list of {t}.", f"Turn this into a list: {t}.", f"Write this as a list: {t}"])
            a, th = "\n".join("- " + x for x in xs), f"The list has {len(xs)} items."
        elif k == 4:
            t = self.one([self.make_facts(1)[0][0], self.filler(), " ".join(self.names(self.r.randint(2, 5)))])
            q = self.one([f"Repeat after me: {t}", f"Say this: {t}", f"Repeat this text: {t}", f"Say exactly this: {t}"])
            a, th = t, "I repeat the text."
        else:
            pool = sorted(set(ANIMALS + FOODS + OBJECTS + COLOURS))
            x = self.one([w for w in pool if held_hash("spell", w) == self.held])
            if self.mix > 3 and not self.held and self.chance(0.6):
                x = self.one([self.word(), self.name().lower(), self.city().lower()])
            q = self.one([f"Spell the word {x}.", f"How do you spell {x}?", f"Spell {x}."])
            a, th = "-".join(x), f"The letters of {x}, one by one."
        return [(q, [{"thought": th, "content": a}])]

    def code(self):
        lang, what, f, body = self.one(CODE)
        a, b = self.one(ARGS)
        if self.held:
            f = self.one(FUNCS_HELD)
        elif self.mix > 1 and self.chance(0.4):
            f = self.one([self.one(OBJECTS), self.one(ANIMALS), self.name().lower(), self.one(FUNCS) + "_" + self.one(OBJECTS)] +
                         ([self.word(), self.word() + "_" + self.word()] if self.mix > 3 else []))
        elif self.chance(0.4):
            f = self.one(FUNCS)
        own = f not in [c[2] for c in CODE]
        L = {"python": "Python", "c": "C"}[lang]
        q = self.one([f"Write a {L} function that {what}.", f"Show me a {L} function that {what}.",
                      f"I need a {L} function that {what}.", f"Please write a function in {L} that {what}."])
        if own:
            q += self.one([f" Call it {f}.", f" Its name is {f}.", f" Name it {f}."])
        if (a, b) != ARGS[0]:
            q += f" Use {a} and {b}." if "{b}" in body else f" Call the argument {a}."
        t = self.skew([f"Here is a {L} function that {what}:"])
        return [(q, [{"thought": f"A {L} function, called {f}.",
                      "content": f"{t}\n```{lang}\n{body.format(f=f, a=a, b=b)}\n```"}])]

    EFFECT = {
        "key": "opened a tiny door in the garden wall", "map": "showed the way to a hidden lake", "lantern": "lit up the whole path",
        "bell": "called all the birds of the wood", "drum": "made everyone dance", "ring": "shone like a little star",
        "coin": "bought bread for all the neighbours", "feather": "tickled the angry giant until he laughed",
        "shell": "sang the song of the sea", "kite": "carried them high above the hills", "boat": "took them safely across the river",
        "basket": "was full of sweet berries", "mirror": "showed them a smiling face", "book": "told them where the treasure was",
        "hat": "kept them dry in the rain", "stone": "was warm and glowed in the dark", "button": "fitted the old coat of the king",
        "flute": "played a soft tune all by itself", "rope": "helped them climb the steep rock", "seed": "grew into a tall apple tree"}
    HELPERS = [("Hoot", "owl"), ("Bruno", "bear"), ("Pip", "mouse"), ("Shelly", "turtle"), ("Ollie", "otter"), ("Greta", "goat")]

    def story_parts(self):
        while True:
            an, ob = self.one(ANIMALS), self.one(OBJECTS)
            if held_hash("story", an, ob) == self.held:
                return an, ob

    def story_text(self, an, n, ob, pl):
        h, ha = self.HELPERS[zlib.crc32((an + ob).encode()) % len(self.HELPERS)]
        if ha == an or h == n:
            h, ha = "Rosie", "robin"
        adj = self.skew(["little", "young", "brave", "shy", "clever"])
        hab = self.skew(["went for a long walk", "looked at the clouds", "sang a song", "counted the flowers", "swept the floor"])
        wea = self.skew(["sunny", "rainy", "windy", "cold"])
        oad = self.skew(["shiny", "strange", "golden", "dusty"])
        wh = self.skew(["under a tree", "behind a big stone", "near the well", "in the tall grass"])
        ex = self.skew(["What a surprise!", "Oh, how lovely!", "Look at that!"])
        fe = self.skew(["very happy", "proud", "full of joy"])
        ar = "an" if adj[0] in "aeiou" else "a"
        s = [f"Once upon a time, {ar} {adj} {an} named {n} lived in {pl}.", f"Every morning {n} {hab}.",
             f"One {wea} day, {n} found a {oad} {ob} {wh}.", f'"{ex}" said {n}. "I wonder what this {ob} can do."',
             f"So {n} went to {h} the {ha} and asked for advice.",
             self.skew([f'"Do not be afraid," said {h}. "Let us try it together."', f'"Be careful," said {h}. "But let us try it."']),
             f"They tried it, and the {ob} {self.EFFECT[ob]}.", f"{n} was {fe} and thanked {h}.",
             self.skew([f"From that day on, {n} and {h} were best friends.", f"And {n} never forgot that day."])]
        return " ".join(s[:2]) + "\n\n" + " ".join(s[2:6]) + "\n\n" + " ".join(s[6:])

    def story(self):
        an, ob = self.story_parts()
        n, pl, form = self.name(), self.skew(PLACES), self.r.randrange(7)
        want = self.one(["Tell me a story", "Tell me a short story", "Write a story", "Write a short story", "I want a story"])
        extra = ""
        if self.chance(0.3):
            pl = self.one(PLACES)
            extra = f" It should play in {pl}."
        if form == 0 and not self.held:                    # nothing given: the story of every day
            n, an, ob = "Lily", "fox", self.skew(["key", "map", "bell", "lantern"])
            q = want + "." + extra
        elif form == 1 and not self.held:
            n = self.skew(["Lily", "Max", "Mia", "Tom"])
            q = f"{want} about a {an} who finds a {ob}.{extra}"
        elif form == 2 and not self.held:
            ob = self.skew(["key", "map", "bell", "lantern"])
            q = f"{want} about a {an} named {n}.{extra}"
        else:
            q = self.one([f"{want} about a {an} named {n} and a {ob}.", f"{want} about a {an} called {n} who finds a {ob}.",
                          f"{want} with a {an} named {n} and a {ob} in it."]) + extra
        text = self.story_text(an, n, ob, pl)
        t = [(q, [{"thought": f"A story about {n} the {an} and a {ob}, in {pl}.", "content": text}])]
        if self.chance(0.4):
            h = text.split("went to ")[1].split(" and asked")[0]
            t.append(self.one([
                (f"What did {n} find?", [{"thought": "It is in my story.", "content": f"{n} found a {ob}."}]),
                (f"Who helped {n}?", [{"thought": "It is in my story.", "content": f"{h} helped {n}."}]),
                (f"Where did {n} live?", [{"thought": "It is in my story.", "content": f"{n} lived in {pl}."}])]))
        return t

    # ---- tools ---------------------------------------------------------------------------------------------------
    def tool_kinds(self):
        one = self.one
        def weather(a):
            c = self.city()
            q = one([f"What is the weather in {c}?", f"How is the weather in {c}?", f"Is it warm in {c}?", f"Do I need a coat in {c}?"])
            r = f"{self.r.randint(-9, 35)} degrees and {one(['sunny', 'rainy', 'windy', 'cloudy', 'snowy'])}"
            return q, {a[0]: c}, r, f"In {c} it is {r}.", f"the weather in {c}"
        def clock(a):
            c = self.city()
            r = f"{self.r.randint(0, 23):02d}:{self.r.randint(0, 59):02d}"
            return one([f"What time is it in {c}?", f"How late is it in {c}?", f"Tell me the time in {c}."]), {a[0]: c}, r, f"It is {r} in {c}.", f"the time in {c}"
        def calc(a):
            x, y = self.numbers("calc", 100, 999)
            op = one("+-*")
            r = {"+": x + y, "-": x - y, "*": x * y}[op]
            return one([f"What is {x} {op} {y}?", f"Calculate {x} {op} {y}.", f"How much is {x} {op} {y}?"]), {a[0]: f"{x} {op} {y}"}, str(r), f"{x} {op} {y} = {r}.", "a large sum"
        def message(a):
            n, t = self.name(), one(["dinner is ready", "the train is late", "I am at home", "the door is open", "we meet at noon", "the parcel is here"])
            return one([f"Tell {n} that {t}.", f"Send {n} a message: {t}.", f"Let {n} know that {t}."]), {a[0]: t, a[1]: n}, "sent", f"I sent your message to {n}.", f"a message to {n}"
        def timer(a):
            m = self.r.randint(1, 59)
            return one([f"Set a timer for {m} minutes.", f"Wake me in {m} minutes.", f"Remind me in {m} minutes."]), {a[0]: m}, "ok", f"The timer is set for {m} minutes.", f"a timer for {m} minutes"
        def readf(a):
            f = one(["notes", "todo", "readme", "list", "plan", "letter", "report"]) + one([".txt", ".md", ""])
            s = self.make_facts(1)[0][0] if self.chance(0.7) else self.filler()
            return one([f"Read the file {f}.", f"What is in {f}?", f"Open {f} and tell me what it says."]), {a[0]: f}, s, f"The file {f} says: {s}", f"the file {f}"
        def phone(a):
            n = self.name()
            r = "".join(str(self.r.randrange(10)) for _ in range(6))
            return one([f"What is {n}'s phone number?", f"How can I call {n}?", f"Find the number of {n}."]), {a[0]: n}, r, f"{n}'s phone number is {r}.", f"the number of {n}"
        def music(a):
            i = one(INSTR)
            return one([f"Play some {i} music.", f"I want to hear {i} music.", f"Put on {i} music."]), {a[0]: i}, "playing", f"Now playing {i} music.", f"{i} music"
        def price(a):
            t, c = one(THINGS), one(COLOURS)
            r = f"{self.r.randint(2, 99)} euros"
            return one([f"How much is the {c} {t}?", f"What does the {c} {t} cost?", f"Find the price of the {c} {t}."]), {a[0]: f"{c} {t}"}, r, f"The {c} {t} costs {r}.", f"the price of the {c} {t}"
        S, I = "STRING", "INTEGER"
        return [
            (weather, [("get_weather", "Gets the weather for a city."), ("weather", "Current weather in a place."), ("current_weather", "Tells the weather.")],
             [[("city", S)], [("place", S)], [("location", S)]]),
            (clock, [("get_time", "Gets the time in a city."), ("clock", "Tells the time in a place."), ("local_time", "Local time of a city.")],
             [[("city", S)], [("place", S)], [("location", S)]]),
            (calc, [("calculate", "Calculates an expression."), ("calculator", "Works out a sum."), ("math", "Evaluates an expression.")],
             [[("expression", S)], [("sum", S)], [("input", S)]]),
            (message, [("send_message", "Sends a message to a person."), ("send_text", "Sends a text to somebody."), ("notify", "Sends a short note.")],
             [[("text", S), ("to", S)], [("message", S), ("person", S)], [("body", S), ("name", S)]]),
            (timer, [("set_timer", "Sets a timer in minutes."), ("timer", "Starts a timer."), ("start_timer", "Starts a timer for some minutes.")],
             [[("minutes", I)], [("duration", I)], [("time", I)]]),
            (readf, [("read_file", "Reads a text file."), ("open_file", "Opens a file and returns its text."), ("cat", "Shows a file.")],
             [[("path", S)], [("file", S)], [("filename", S)]]),
            (phone, [("find_number", "Finds a phone number."), ("phone_book", "Looks up the number of a person."), ("contacts", "Searches the contacts.")],
             [[("name", S)], [("person", S)], [("who", S)]]),
            (music, [("play_music", "Plays music."), ("music", "Plays some music."), ("play", "Plays a kind of music.")],
             [[("kind", S)], [("style", S)], [("instrument", S)]]),
            (price, [("get_price", "Gets the price of an article."), ("price", "Looks up a price."), ("shop_search", "Searches the shop.")],
             [[("item", S)], [("article", S)], [("product", S)]])]

    def tools(self):
        """-> (declarations, turns)"""
        kinds = self.tool_kinds()
        self.r.shuffle(kinds)
        n = self.r.choice((1, 1, 2, 2, 3))
        chosen, decl, self.declared = [], [], []
        for fn, names, pars in kinds[:n]:
            (name, desc), par = self.one(names), self.one(pars)
            chosen.append((fn, name, [p for p, _ in par]))
            decl.append(declaration(name, desc, par))
            self.declared.append((name, desc, par))
        turns = []
        for _ in range(self.r.choice((1, 1, 2))):
            x = self.r.random()
            if x < 0.10 and n < 3:                          # something no declared tool can do
                fn, names, pars = kinds[n]
                if fn.__name__ != "calc":
                    q = fn([p for p, _ in pars[0]])[0]
                    turns.append((q, [{"thought": "None of my tools can do this.", "content": "I have no tool for that."}]))
                    continue
            if x < 0.22:                                    # needs no tool
                turns += self.one([self.small, self.fact, self.lists])()
                continue
            fn, name, par = self.one(chosen)
            q, args, res, fin, what = fn(par)
            turns.append((q, [{"thought": f"The user wants {what}. I call {name}.", "call": (name, args), "result": res},
                              {"thought": "I have the result.", "content": fin}]))
        return decl, turns

    # ---- conversations -------------------------------------------------------------------------------------------
    SHORT = ["arith"] * 5 + ["fact"] * 2 + ["small"] * 2 + ["lists"] * 4 + ["about"] * 4 + ["unknown"]
    KINDS = ["lookup"] * 26 + ["story"] * 17 + ["tools"] * 20 + ["code"] * 9 + ["short"] * 26 + ["my_name"] * 5 + ["long"] * 3
    KINDS2 = ["lookup"] * 30 + ["story"] * 12 + ["tools"] * 18 + ["code"] * 8 + ["short"] * 16 + ["my_name"] * 6 + ["long"] * 4 + \
        ["sums"] * 10 + ["copies"] * 8
    KINDS4 = ["lookup"] * 24 + ["story"] * 8 + ["tools"] * 15 + ["code"] * 11 + ["short"] * 14 + ["my_name"] * 5 + ["long"] * 3 + \
        ["sums"] * 20 + ["copies"] * 9 + ["lists"] * 6
    SYSTEM = ["You are Tandem, a small and friendly model.", "You are a helpful assistant.", "Answer briefly.", "You are Tandem.",
              "Be short and precise.", "You help people with small tasks."]

    def conversation(self, kind=None, thinking=None):
        kind = kind or self.one((self.KINDS, self.KINDS2, self.KINDS2, self.KINDS4)[self.mix - 1])
        c = {"kind": kind, "system": "", "tools": [], "thinking": self.chance(0.33) if thinking is None else thinking, "turns": []}
        if self.chance(0.15):
            c["system"] = self.one(self.SYSTEM)
        if kind == "tools":
            c["tools"], c["turns"] = self.tools()
        elif kind == "short":
            for _ in range(self.r.choice((1, 2, 3, 4, 5))):
                c["turns"] += getattr(self, self.one(self.SHORT))()
        elif kind == "long":
            c["turns"] = self.lookup(self.r.randint(14, 26))
        else:
            c["turns"] = getattr(self, kind)()
            if kind != "story" and self.chance(0.25):
                c["turns"] += getattr(self, self.one(self.SHORT))()
        if c["thinking"] and len(c["turns"]) > 1:           # thoughts show in the last turn only: train more last turns
            c["turns"] = c["turns"][:self.r.randint(1, len(c["turns"]))]
        return c

    def plain(self):
        """text outside any chat, for raw completion"""
        an, ob = self.story_parts()
        if self.chance(0.7):
            return [("<bos>", False), (self.story_text(an, self.name(), ob, self.skew(PLACES)), True), ("<eos>", True)]
        return [("<bos>", False), (" ".join(f[0] for f in self.make_facts(self.r.randint(3, 8))), False), ("<eos>", False)]


def declaration(name, desc, pars):
    props = ",".join(f"{p}:{{type:{Q}{t}{Q}}}" for p, t in sorted(pars))
    req = ",".join(Q + p + Q for p, _ in pars)
    return f"declaration:{name}{{description:{Q}{desc}{Q},parameters:{{properties:{{{props}}},required:[{req}],type:{Q}OBJECT{Q}}}}}"


def arguments(args):
    return ",".join(f"{k}:{Q + v + Q if isinstance(v, str) else v}" for k, v in sorted(args.items()))


def render(c):
    out = [("<bos>", False)]
    if c["system"] or c["tools"] or c["thinking"]:
        out.append(("<|turn>system\n" + ("<|think|>\n" if c["thinking"] else "") + c["system"] +
                    "".join("<|tool>" + d + "<tool|>" for d in c["tools"]) + "<turn|>\n", False))
    for i, (user, steps) in enumerate(c["turns"]):
        last = i == len(c["turns"]) - 1
        train = last or not c["thinking"]                   # earlier thoughts are not shown, so those turns do not teach
        out.append((f"<|turn>user\n{user.strip()}<turn|>\n<|turn>model\n", False))
        for j, s in enumerate(steps):
            if c["thinking"] and last:
                if j == 0:
                    out.append((f"<|channel>thought\n{s['thought']}\n<channel|>", train))
                else:                                       # the prompt after a result already opens the thought
                    out += [("<|channel>thought\n", False), (f"{s['thought']}\n<channel|>", train)]
            if "call" in s:
                name, args = s["call"]
                out += [(f"<|tool_call>call:{name}{{{arguments(args)}}}<tool_call|><|tool_response>", train),
                        (f"response:{name}{{value:{Q}{s['result']}{Q}}}<tool_response|>", False)]
            else:
                out.append((s["content"] + "<turn|>", train))
        if not last:
            out.append(("\n", False))
    return out


def stream(seed, mix=4):
    """mix 1: the opening mixture; 2: more sums (smaller ones), copies and look-ups; 3: made-up words of any letters;
    4: still more sums, half of them up to 50, and made-up words in code and spelling too"""
    g = Gen(seed, mix=mix)
    while True:
        yield g.plain() if g.chance(0.03) else render(g.conversation())


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--n", type=int, default=8)
    ap.add_argument("--mix", type=int, default=4)
    a = ap.parse_args()
    it = stream(a.seed, a.mix)
    for _ in range(a.n):
        print("".join(t if w else t for t, w in next(it)), "\n" + "=" * 60)
