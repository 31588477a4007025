"""The English household, and what narrows the English templates to what people say."""

from __future__ import annotations

from scripts.build_data.home_commands.sentences import Household

ONE = "light|lamp|fan|switch|lock|door|window|shade|blind|curtain|awning|shutter|gate"

HOUSEHOLD = Household(
    values={
        "area": {
            "in": "kitchen, living room, bedroom, bathroom, hallway, office, dining room, garage, nursery, "
            "guest room, laundry room, basement, playroom, pantry, conservatory*, utility room*, library*, workshop*",
            "on": "balcony, patio, terrace*, porch*",
        },
        "floor": {
            "on": "ground floor, first floor, upper floor, second floor*, third floor*",
            "in": "basement, attic, loft*",
        },
        "name/light": {
            "n": "floor lamp, desk lamp, bedside lamp, ceiling light, reading lamp, night light, chandelier, fairy "
            "lights, "
            "spotlights, bar light, salt lamp, lava lamp*, pendant lamp*, mirror light*, star projector*",
            "l": "accent, mood, stairs, aquarium, workbench*",
        },
        "name/switch": {"n": "coffee maker, heater, kettle, christmas tree, water pump, toaster*, humidifier*"},
        "name/fan": {"n": "ceiling fan, tower fan, extractor fan, desk fan*"},
        "name/input_boolean": {"n": "guest mode, holiday mode*"},
        "name/cover": {"n": "left blind, roller shutter, skylight, sliding door, front gate, sun sail*, barn door*"},
        "name/lock": {"n": "front door, back door, cellar door, side gate*"},
        "name/valve": {"n": "garden tap, sprinkler valve, drain valve*"},
        "name/climate": {"n": "thermostat, air conditioner, heat pump, radiator, infrared panel*"},
        "name/media_player": {"n": "television, soundbar, smart speaker, record player, projector*, kitchen radio*"},
        "name/vacuum": {"n": "robot vacuum, rover, dusty, hoover bot*"},
        "name/lawn_mower": {"n": "robo mower, grass hopper, shaun*"},
        "name/todo": {"d": "packing, chores, party, hardware store, gift ideas*, homework*"},
        "name/scene": {"n": "movie night, dinner time, relax, bright morning, romantic*, focus time*"},
        "name/script": {"n": "bedtime routine, leave home, wake up*"},
        "name/button": {"n": "doorbell, reboot, gate opener*"},
        "name/input_button": {"n": "doorbell, panic"},
        "name/sensor": {"n": "outdoor temperature, humidity sensor, power meter, rain gauge, water level*"},
        "name/binary_sensor": {"n": "motion sensor, garage window, mailbox, smoke detector, pool gate*, bath window*"},
        "name/person": {"p": "Anna, Tom, Maria, Ben, Sophie, Oliver*, Grace*"},
        "name/weather": {"p": "Berlin, London, Chicago, Boston, Paris, Oslo, Rome, Toronto, Sydney*, Dublin*"},
        "zone": {"zh": "home", "z": "work, school, university*"},
        "message": {
            "m": "dinner is ready, it is time to leave, the taxi is here, lunch will be late, the parcel has arrived, "
            "we are home, bedtime in ten minutes, breakfast is served*, the guests are coming*"
        },
        "search_query": {
            "q": "jazz, Mozart, the morning news, rock classics, Abbey Road, rain sounds, Vivaldi, lullabies, "
            "Miles Davis, summer hits, Moon River, piano music*, Bohemian Rhapsody*, Louis Armstrong*"
        },
        "timer_name": {"t": "pizza, pasta, laundry, tea, eggs, workout, bread, nap*, roast*, homework*"},
        "timer_command": {
            "c": "turn off the lights, open the garage door, close the blinds, start the robot vacuum, play jazz, "
            "turn on the heater, lock the front door*, switch off the television*"
        },
        "shopping_list_item": {
            "i": "milk, eggs, bread, apples, olive oil, toothpaste, dish soap, cheese, coffee beans, bananas, rice, "
            "paper towels, oat milk*, carrots*, dog food*"
        },
        "todo_list_item": {
            "i": "clean the windows, passport, sunscreen, call grandma, water the plants, batteries, light bulbs, "
            "balloons, pay the rent*, phone charger*, fix the bike*"
        },
    },
    functions="in|on|at|of|from|to|for|with|the|my|our|a|an|off",
    before={
        "in": r"((in|of|from|to|off) )?(the|my|our)?|in",
        "on": r"((on|of|from|to|off) )?(the|my|our)?|on",
        "n": r"(?!.*\b(the|my|our) (the|my|our)).*",
        "l": "(the|my)?",
        "p": r"|in|for|at|of|from",
        "z": "at",
        "zh": "|at",
    },
    rules={
        "all": "(all [[of] the]|every)",
        "everywhere": "(everywhere|in the whole (house|flat)|in (all rooms|every room))",
        "here": "([in] here|in (this|the) room)",
        "in": "(in|on|of)",
        "the": "(the|the|the|my)",
        "numeric_value_set": "(set|change|turn)",
        "set": "(set|change|turn)",
        "turn": "(turn|switch)",
        "open": "(open|raise)",
        "close": "(close|shut|lower)",
        "light": "(light|lights|lights|lamp|lamps)",
        "any": "any [of the]",
        "is": "(is|are)",
        "lockable": "(locks|doors|windows|gates|garage doors)",
        "media": "(music|movie|[tv] show|media player|song|track)",
    },
    lists={"volume_step": ("up", "down", "increase", "decrease"), "timer_half": ("half",)},
    repairs=(
        # "5 minutes" and "1 hour", but "a 5 minute timer".
        (r"[ -](hour|minute|second)s?\b(?! timer)", r" \1s"),
        (r"[ -](hour|minute|second)s timer\b", r" \1 timer"),
        (r"\b(1|half an|half a) (hour|minute|second)s", r"\1 \2"),
        (r"(\d) and half", r"\1 and a half"),
        (r"(\d)kelvin", r"\1 kelvin"),
        (r"\b(in|on|of) \{(area|floor)", r"\1 the {\2"),
    ),
    unreal=(
        r"\bdegree\b|(hours|minutes) (and )?\d+[ -](hour|minute|second|and)[\w ]* timer\b",
        r"\ba \d|\ban \d|timer for \{name:t\|\w+\} (named|called)",
        rf"(any|all|which|what|how many|many) (of )?(the |my |our )*([a-z_]+ )?(\{{[^}}]*\}} )?({ONE})\b",
        r"(lights|lamps|fans|switches|locks|doors|windows|gates|shutters|blinds|curtains|awnings|shades) (is|on is)\b",
        r"\bis (any|all|every)?\s*(of )?(the )?([\w ]*)(lights|lamps|fans|switches|locks|doors|windows|gates)\b",
        r"\bevery (\{area[^}]*\} |\{floor[^}]*\} )?(lights|lamps|fans|the)\b|\b(are|is) all the the|each",
        r"are (the |my )?\{name:n\|[^}]*(?<!s)\}|is (the |my )?\{name:n\|[^}]*(lights|lamps|spotlights)\}",
        r"\b(are|is) the (any|all|every)|(what|which) is \{|\bany the|(the|my|our) (the|my|our)\b",
        # A place at the end has its preposition, and what belongs to something has its "of".
        r"\b(?!(in|on|of|the|my|clean|vacuum|up)\b)\w+ \{(area|floor):[^}]*\}$",
        r"(?<!\bin)(?<!\bon)(?<!\bof)(?<!clean)(?<!vacuum)(?<!\bup) (the|my) \{(area|floor)[^}]*\}$",
        r"speed (the |my )?(fan|\{)|(temperature|brightness|color) (the |my )?\{name",
        r"\{name:d\|[^}]*\}(?! list)",
        # Floors are called floors already.
        r"floor\} floor|(basement|attic|loft)\} floor",
        # Verbs and what they do.
        r"(turn|set|change) (up|down) (the )?(color|colour)|illuminate|light up (the )?\{name",
        r"(turn|switch) (the |my |our )?(color|temp|fan mode|\{area[^}]*\} (color|temp|to))|bring",
        r"\b(turn|lower|raise|shut|set|change)\b.*\b(door|gate)s? (position )?to",
        r"lower (the |my |our )?\{name:n\|[^}]*(tap|valve|door|gate)",
        r"(lower|raise) [\w ]*(\{area[^}]*\} )?(doors?|gates?|windows?|garage doors?)\b",
        r"raise (the |my )?\{name:n\|[^}]*(tap|valve|door|gate)",
        r"(put|place) .* in (my |the )?\{name|off from|complete off|check (?!off)",
        r"complete \{item:i\|[^}]*\} off",
        r"\b(movie|tv show|show|album|podcast|artist|playlist) \{search_query",
        r"\{search_query:q\|[^}]*\} (movie|show|tv|album|artist|track|podcast)",
        r"\b(color|brightness) \d|to to|% percent|°\s*percent|turn (the )?volume increase",
        r"turn (the )?volume decrease",
        r"volume (increase|decrease)$|^(increase|decrease) .*volume (increase|decrease)",
        r"^turn (increase|decrease)",
        r"volume (increase|decrease) (in|on)|\} volume (increase|decrease)|turn the volume \d",
        r"timers? (for|in) (my|our) |\bwhat (is|the) (the )?weather$|tell me (the )?weather like|hows|whats",
        r"todays|wheres",
        r"tell me \{|what's \{name|\{name:n\|[^}]*\} \{area|\{area[^}]*\} (the |my |our )\{name",
        r"(the|my|our) \{name:p",
        r"(lights?|lamps?|chandelier|projector)\} (light|lamp)|\{name:l\|[^}]*\}(?! (light|lamp))|^(up|down) ",
        r"mode\}.*\{area|\{area.*mode\}",
        r"\b(my|our) (weather|light|lights|fan|fans|lamps?|doors?|windows?|gates?|curtains?|blinds?)\b.*\b(my|our)\b",
    ),
)
