"""Word pools of the demo text. Every pool that a held-out prompt draws from has a second, disjoint pool,
so that no held-out prompt can occur in the training text."""

NAMES = """Anna Ben Clara David Emma Felix Grace Hugo Iris Jack Kira Leo Mia Noah Olga Paul Quinn Rosa Sam Tina
Uma Victor Wendy Xavier Yara Zoe Adam Bella Carl Daisy Eric Fiona George Hanna Ivan Julia Karl Laura Max Nina
Oscar Petra Ralf Sara Tom Ursula Vera Walter Alma Boris Cora Dan Elsa Frank Gina Harry Ida Jonas Kate Lukas
Maria Nick Otto Pia Robert Sofia Theo Amir Aisha Kenji Yuki Ravi Priya Chen Mei Omar Layla Diego Lucia Pedro
Nora Finn Astrid Lars Greta Emil Freya Hans Ingrid Johan""".split()
NAMES_HELD = "Milan Dora Simon Helen Bruno Tessa Oliver Marta Jasper Lena Arthur Nadia Samuel Elena Viktor Ruby".split()
SYLL_A = "Ba Be Da De Fa Ga Ka Ke La Le Lo Ma Me Mi Mo Na Ne No Pa Ra Re Ri Ro Sa Se Si So Ta Te Ti To Va Vi Za Ze".split()
SYLL_B = "ba bi da do fa ga go ka ki la li lo ma mi mo na ni no pa po ra ri ro sa si so ta ti to va vi za".split()
SYLL_C = "n r l s k m x th nd rt".split() + [""] * 6

CITIES = """Oslo Paris Rome Berlin Madrid Lisbon London Dublin Vienna Prague Athens Cairo Delhi Tokyo Kyoto Lima
Boston Chicago Denver Dallas Seattle Toronto Sydney Perth Geneva Zurich Milan Turin Naples Porto Seville Lyon
Nice Hamburg Munich Dresden Bergen Malmo Helsinki Riga Warsaw Krakow Budapest Sofia Istanbul Nairobi""".split()
CITIES_HELD = "Stockholm Copenhagen Brussels Bogota Havana Manila Glasgow Leipzig Valencia Bologna".split()

COLOURS = "red blue green yellow white black brown pink orange purple grey silver golden".split()
ANIMALS = """fox rabbit bear mouse cat dog owl frog duck hen horse goat sheep pig cow lion tiger wolf deer otter
badger hedgehog squirrel turtle snail penguin parrot crow swan donkey""".split()
PETS = "cat dog parrot rabbit horse goat turtle hamster duck pony".split()
FOODS = """soup bread rice pasta salad cheese pie cake pizza fish stew porridge pancakes noodles beans toast honey
apples pears plums""".split()
JOBS = """baker doctor teacher farmer painter driver nurse singer writer pilot cook gardener sailor lawyer tailor
judge carpenter librarian plumber dentist""".split()
THINGS = "box bag door chest bike car boat book lamp chair drawer locker suitcase cupboard folder".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
OBJECTS = """key map lantern bell drum ring coin feather shell kite boat basket mirror book hat stone button flute
rope seed""".split()
PLACES = ["a quiet forest", "a small village", "a green valley", "an old barn", "a tall tower", "a sunny meadow",
          "a house by the sea", "a cave in the hills", "a garden full of roses", "a town on the river"]
INSTR = "piano guitar violin flute drums trumpet cello harp".split()

CATEGORIES = {
    "fruits": "apple pear plum cherry grape lemon orange peach banana mango".split(),
    "vegetables": "carrot potato onion cabbage spinach leek tomato bean pea pumpkin".split(),
    "colours": "red blue green yellow white black brown pink orange purple".split(),
    "animals": "cat dog horse cow sheep pig goat hen duck rabbit".split(),
    "birds": "owl crow swan duck robin eagle parrot penguin gull finch".split(),
    "trees": "oak pine birch maple willow ash beech cedar elm fir".split(),
    "planets": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split(),
    "days": DAYS,
    "months": "January February March April May June July August September October".split(),
    "tools": "hammer saw drill pliers wrench file axe chisel shovel rake".split(),
    "metals": "iron copper silver gold tin lead zinc nickel aluminium titanium".split(),
    "instruments": "piano guitar violin flute drum trumpet cello harp organ clarinet".split(),
    "countries": "France Spain Italy Norway Sweden Germany Poland Greece Japan Brazil".split(),
    "rivers": "Nile Amazon Danube Rhine Thames Seine Volga Ganges Mekong Loire".split(),
    "shapes": "circle square triangle oval cube cone sphere star".split(),
    "drinks": "water milk tea coffee juice cocoa lemonade cider".split(),
}
NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
CAPITALS = {
    "France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Norway": "Oslo", "Germany": "Berlin", "Portugal": "Lisbon",
    "Ireland": "Dublin", "Austria": "Vienna", "Greece": "Athens", "Egypt": "Cairo", "Japan": "Tokyo", "Peru": "Lima",
    "Poland": "Warsaw", "Hungary": "Budapest", "Finland": "Helsinki", "Latvia": "Riga", "Bulgaria": "Sofia",
    "Kenya": "Nairobi", "England": "London", "Sweden": "Stockholm", "Denmark": "Copenhagen", "Belgium": "Brussels",
}
SOUNDS = {"cat": "meow", "dog": "woof", "cow": "moo", "sheep": "baa", "duck": "quack", "hen": "cluck", "pig": "oink",
          "horse": "neigh", "owl": "hoot", "frog": "croak", "lion": "roar", "crow": "caw", "mouse": "squeak", "goat": "maa"}
OPPOSITES = {"hot": "cold", "big": "small", "fast": "slow", "up": "down", "left": "right", "open": "closed", "full": "empty",
             "hard": "soft", "light": "dark", "old": "new", "high": "low", "long": "short", "early": "late", "wet": "dry",
             "loud": "quiet", "strong": "weak", "rich": "poor", "near": "far", "happy": "sad", "clean": "dirty"}
