"""The German household, and what narrows the German templates to what people say."""

from __future__ import annotations

from scripts.build_data.home_commands.sentences import Household

COVERS = (
    "Markise|Beschattung|Jalousie|Rollo|Gardine|Vorhang|Türe?|Garagentüre?|Garagentor|Tor|Schirm|Ventilator|Licht"
    "|Lampe|Beleuchtung|Steckdose|Schloss"
)
NEUTER = "Rollo|Garagentor|Tor|Fenster|Schloss|Licht"

HOUSEHOLD = Household(
    values={
        "area": {
            "an": "Wohnzimmer, Schlafzimmer, Bad, Arbeitszimmer, Esszimmer, Kinderzimmer, Gästezimmer, Büro, "
            "Spielzimmer*, Gartenhaus*",
            "af": "Küche, Garage, Waschküche, Abstellkammer, Werkstatt*, Bibliothek*",
            "am": "Flur, Keller, Wintergarten*",
            "ab": "Balkon, Dachboden",
        },
        "floor": {"an": "Erdgeschoss, Obergeschoss, Untergeschoss, Kellergeschoss, Dachgeschoss*, Zwischengeschoss*"},
        "name/light": {
            "f": "Stehlampe, Leselampe, Schreibtischlampe, Deckenlampe, Lichterkette, Nachttischlampe, Salzlampe*, "
            "Pendelleuchte*",
            "n": "Nachtlicht, Spiegellicht, Ambientelicht*",
            "m": "Kronleuchter, Deckenfluter, Sternenprojektor*",
        },
        "name/switch": {"f": "Kaffeemaschine, Wasserpumpe", "m": "Weihnachtsbaum, Wasserkocher, Luftbefeuchter*"},
        "name/fan": {"m": "Deckenventilator, Standventilator, Turmventilator*", "f": "Dunstabzugshaube"},
        "name/input_boolean": {"m": "Gästemodus, Urlaubsmodus*"},
        "name/cover": {"f": "Schiebetür, Dachluke, Scheunentür*", "n": "Hoftor, Sonnensegel*", "m": "Sonnenschutz"},
        "name/lock": {"f": "Haustür, Kellertür, Hintertür, Gartentür*"},
        "name/valve": {"n": "Gartenventil, Sprengerventil, Ablassventil*"},
        "name/climate": {"n": "Wandthermostat", "f": "Wärmepumpe, Klimaanlage, Infrarotheizung*"},
        "name/media_player": {
            "m": "Fernseher, Plattenspieler, Beamer*",
            "f": "Soundbar, Stereoanlage",
            "n": "Küchenradio*",
        },
        "name/vacuum": {"m": "Saugroboter, Robbi*", "f": "Susi, Rosie*"},
        "name/lawn_mower": {"m": "Mähroboter, Grashüpfer, Rasenbock*"},
        "name/todo": {"d": "Baumarkt, Drogerie, Urlaub, Haushalt, Geschenke*"},
        "name/scene": {"x": "Filmabend, Abendessen, Entspannung, Guten Morgen, Romantik*, Leselicht*"},
        "name/script": {"x": "Gute Nacht, Haus verlassen, Aufwachen*"},
        "name/button": {"x": "Klingel, Neustart, Toröffner*"},
        "name/input_button": {"x": "Klingel, Panik"},
        "name/sensor": {"f": "Außentemperatur, Luftfeuchtigkeit", "m": "Stromzähler, Wasserstand*"},
        "name/binary_sensor": {
            "n": "Dachfenster, Küchenfenster, Badfenster*",
            "m": "Bewegungsmelder, Rauchmelder, Briefkasten*",
        },
        "name/person": {"x": "Anna, Thomas, Maria, Ben, Sophie, Oliver*, Greta*"},
        "name/weather": {"x": "Berlin, Hamburg, Wien, Köln, Zürich*, Dresden*"},
        "zone": {"x": "zuhause", "zf": "Arbeit, Schule", "zb": "Sportplatz*"},
        "message": {
            "x": "das Essen ist fertig, wir müssen los, das Taxi ist da, das Paket ist angekommen, wir sind zu Hause, "
            "das Frühstück steht bereit*, die Gäste kommen*"
        },
        "search_query": {
            "x": "Jazz, Mozart, Abbey Road, Regengeräusche, Vivaldi, Schlaflieder, Miles Davis, Sommerhits, "
            "Klaviermusik*, Bohemian Rhapsody*"
        },
        "timer_name": {"x": "Pizza, Nudel, Wäsche, Tee, Eier, Brot, Kuchen*, Mittagsschlaf*"},
        "timer_command": {
            "x": "mach das Licht aus, öffne das Garagentor, starte den Saugroboter, spiel Jazz, schalte die "
            "Heizung ein, "
            "schließ die Haustür ab*, schalte den Fernseher aus*"
        },
        "shopping_list_item": {
            "x": "Milch, Eier, Brot, Äpfel, Olivenöl, Zahnpasta, Spülmittel, Käse, Kaffeebohnen, Reis, "
            "Hafermilch*, Karotten*"
        },
        "todo_list_item": {
            "x": "Fenster putzen, Reisepass, Sonnencreme, Oma anrufen, Pflanzen gießen, Batterien, Glühbirnen, "
            "Miete zahlen*, Ladekabel*"
        },
    },
    functions="in|im|an|am|auf|bei|von|vom|zu|zum|für|der|die|das|dem|den|des|mit|namens",
    before={
        "an": "im|das|vom|auf das|des|",
        "af": "in der|die|von der|",
        "am": "im|den|vom|",
        "ab": "auf dem|den|vom|",
        "n": "((auf|für) )?(das)?|vom|am|auf dem|mit dem|",
        "f": "((auf|für) )?(die)?|von der|auf der|mit der|",
        "m": "((auf|für) )?(den|der)?|vom|am|auf dem|mit dem|",
        "x": "(auf|von|für|in|namens|zu)?|auf (der|die)|von der|der",
        "zf": "auf der|in der",
        "zb": "auf dem",
    },
    rules={
        "area": "(im|in der|auf dem) {area}",
        "floor": "im {floor}",
        "name": "[<artikel_bestimmt> ]{name}",
        "artikel_bestimmt": "(der|die|das|den)",
        "heizung": "(die Temperatur|die Heizung|das Thermostat)",
        "heat_cool": "(heizen|aufheizen|abkühlen)",
        "hier": "(hier|hier im Raum|im Zimmer)",
        "alle": "alle",
        "alle_genitiv": "alle",
        "schliessen": "schließe",
        "schliessen_end_of_sentence": "(schließen|zumachen)",
        "öffnen_end_of_sentence": "(öffnen|aufmachen)",
        "schalten": "schalte",
        "machen": "mach",
        "fahren": "fahr",
        "setze": "(setze|ändere)",
        "stelle": "stelle",
        "setzen_end_of_sentence": "(setzen|stellen|einstellen)",
        "saugen": "(sauge|reinige|wische)",
        "welche": "welche",
        "wieviel": "(wie viel|wie viele)",
        "irgend": "irgendwelche",
        "are_any": "(sind|gibt es) irgendwelche",
        "are_all": "sind alle",
        "luefter": "(den Ventilator|den Lüfter|die Ventilatoren)",
        "luefter_genitiv": "(des Ventilators|des Lüfters)",
        "licht": "([das ]Licht|[die ]Beleuchtung)",
        "licht_ohne_artikel": "(Licht|Beleuchtung)",
        "lichtes_mit_artikel": "(des Lichts|der Lampe)",
        "lichter": "[die ](Lichter|Lampen)",
        "alle_lichter": "alle (Lichter|Lampen)",
        "sperren": "(sperre|schließe)",
        "entsperren": "(entsperre|öffne)",
        "absperren": "(abschließen|verriegeln)",
        "media_type": "(Musik|Sendung)",
        "auf": "(auf|hoch)",
        "zu": "(zu|runter)",
        "aktivieren": "(aktiviere|aktivieren)",
        "preposition": "(in|auf)",
        "szene": "die Szene",
        "skript": "das Skript",
    },
    lists={
        "on_off_states": ("an", "aus", "eingeschaltet", "ausgeschaltet"),
        "lock_states": ("abgeschlossen", "verriegelt", "aufgeschlossen", "entriegelt"),
        "cover_states": ("offen", "geöffnet", "geschlossen"),
        "bs_open_states": ("offen", "geöffnet", "geschlossen"),
        "bs_occupancy_states": ("ausgelöst", "besetzt", "frei"),
        "volume_step": ("lauter", "leiser", "erhöhe", "verringere", "hoch", "runter"),
        "color_temperature_names": ("Kerzenlicht", "warmweiß", "kaltweiß", "Tageslicht"),
        "brightness_level": ("Maximum", "Minimum", "maximale", "minimale"),
        "position_level": ("Maximum", "Minimum"),
        "volume_mapping": ("Maximum", "Minimum"),
        "media_class": ("das Album", "die Playlist", "den Podcast"),
        "media_class_my_split": ("Playlist",),
        "timer_hour_parts_to_minutes": ("eine halbe Stunde", "eine viertel Stunde", "anderthalb Stunden"),
        "timer_minute_parts_to_seconds": ("eine halbe Minute", "anderthalb Minuten", "zweieinhalb Minuten"),
    },
    repairs=(
        (r"\b(\d+) (Stunde|Minute|Sekunde)n?\b", r"\1 \2n"),
        (r"\b1 (Stunde|Minute|Sekunde)n\b", r"1 \1"),
        (r"(\d)\.5\b", r"\1"),
        # Articles follow the gender; a question has the nominative.
        (r"\b(vom|von dem|von)( der| die| das| den)? \{name:f", "von der {name:f"),
        (r"\b(vom|von dem|von)( der| die| das| den)? \{name:([mn])", r"vom {name:\3"),
        (r"\b(der|die|das|den|dem) \{name:f", "die {name:f"),
        (r"\b(der|die|das|den) \{name:n", "das {name:n"),
        (r"\b(der|die|das|den) \{name:m", "den {name:m"),
        (r"^((?:ist|sind|steht|wie|wo|was|wann|welche)\b.*)\bden \{name:m", r"\1der {name:m"),
        (r"\b(der|die|das|den) \{(\w+):x", r"{\2:x"),
        (r"\b(welche|wie viele) ([^{]*)\bist\b", r"\1 \2sind"),
        (r"\bsind (die |das |der )?\{name", r"ist \1{name"),
        (r"\bbreche?\b", "brich"),
        (r"\bgebe\b", "gib"),
        (r"\bstart ", "starte "),
        (r"\bauf die \{name:f", "auf der {name:f"),
        (r"\bauf (das|den) \{name", "auf dem {name"),
        (r"\bnehme\b", "nimm"),
        (r"EinkaufsListe", "Einkaufsliste"),
        (r"\beinen Datum", "ein Datum"),
        (r"\bein Tag", "einen Tag"),
        (r"\bein anderes (Titel|Song|Track)", r"einen anderen \1"),
        (r"\beinen anderen (Lied|Stück)", r"ein anderes \1"),
        # Next and last: "das nächste Lied", "den nächsten Titel".
        (r"\b(?:(der|das|den) )?(nächste|letzte|vorherige)[rsn]? (Lied|Stück)", r"das \2 \3"),
        (r"\b(?:(der|das|den) )?(nächste|letzte|vorherige)[rsn]? (Titel|Song|Track)", r"den \2n \3"),
        (r"\b(zum|zu dem) (das|den) (nächste|letzte|vorherige)n?\b", r"zum \3n"),
    ),
    unreal=(
        r"Temperatur hat (?!es)|\} (die Szene|das Skript)",
        r"(Farbe|Farbtemperatur|Helligkeit) (alle|Beleuchtung|Licht)",
        r"Lautstärke (die|das|den|der)? ?\{|stopen|^(hoch|runter)|(Position|Geschwindigkeit) \{",
        r"(?<!Liste )\{name:d",
        r"(Track|Titel|Lied|Stück|Song|weiter|zurück|vorwärts|wärts) ((die|das|den) )?\{name",
        r"\} ((die|meine|unsere) )?(Einkaufsliste|Liste|Einkauf)\b",
        rf"(alle|welche|irgendwelche|wie viele) ({COVERS})\b|wie viele Grad|wie viel (?!Grad)",
        rf"\b(der|dem|des) ({COVERS})\b",
        rf"\bdas (?!({NEUTER})\b)({COVERS})\w*|\bdie ({NEUTER}|Vorhang|Schirm)\b",
        rf"\bden (?!(Vorhang|Schirm|Ventilator)\b)({COVERS})",
        r"\b(das|den|der) (Jalousien|Rollos|Gardinen|Vorhänge|Türen|Tore|Schirme|Markisen|Garagentore|Ro\w+den)",
        r"\bdas \w+(en|oren)\b \w+$",
        r"(erhöhe|verringere) (?!die)|(lauter|leiser|hoch|runter) die|dreh.* (lauter|leiser|erhöhe|verringere)",
        r"(mach|stell|musik|ton|\}).*(erhöhe|verringere)$|(hoch|runter) (machen|ein)",
        r"(lautstärke|ton) (hoch|runter)$|zu (laut|leise)",
        r"(Maximum|Minimum) (Stufe|Helligkeit|Lautstärke)|die (Maximum|Minimum)|(ale) (?!Helligkeit)|ale$",
        r"das (max|min)imale",
        r"\bauf an\b|gibt es .*\b(an|aus|ein\w+)$|Farbe zu \d|zu \d+ (Prozent|%)|\bauf \w+ \d+ auf\b|%.*%",
        r"\b(Raum|Zimmer)\b.* im \{|\bbrech\b|Türe\b|irgendeins|macht\b|schreibt|gerät",
        r"\{name:x\|[^}]*\}(er|s)\b|\{name:\w\|[^}]*\}s\b|\bRolladen\b|Beschattung|Schirme?\b|Halbe\b|\bmal\b",
        r"jedes? |sämtlich|ganzen|kompletten|gesamten|im ganzen (?!Haus)|^\d+ \{|^auf \d",
        r"(spul|spring)[e ].*\{area|ein Song|ein Titel|ein Track|ein (Lied|Stück) (vor|weiter)",
        r"einen (Lied|Stück)|(den|diesen) (Lied|Stück)",
        r"(nächste|letzte|vorherige)[rsn]?$|(nächste|letzte|vorherige)[rsn]? (?!Lied|Stück|Titel|Song|Track)",
        r"(Song|Titel|Track|Lied|Stück)(spulen|springen)",
        r"\{search_query[^}]*\}\w|wieviel °|Grad (hat|sind) (?!es)|Geschwindigkeit (den|die) |^des |gibt es",
        r"\bstehen\b",
        r"(fahr|mach)\w* .*(Fenster|Tür|Tor)\w* .*(hoch|runter)|färbe.*(licht|\d)|entmut|befehl",
        r"Staubsauger.* auf$|\} Einkauf ",
        r"(aus|auf|von|zu|in) (Einkauf|Liste)\b|^halt\w* (?!.* an$)|\bzu \d|\bzum? (den|das)\b",
        r"(des|meines|unseres) [^{]*(\{[^}]*\} )?Timer$|[ai]e Timers|vo[nm] (dem |meinem )?Timers",
    ),
)
