"""The French household, and what narrows the French templates to what people say."""

from __future__ import annotations

from scripts.build_data.home_commands.sentences import Household

FEMININE = "lumière|lampe|ampoule|prise|porte|fenêtre|serrure|porte de garage"
MASCULINE = "éclairage|ventilateur|ventilo|interrupteur|verrou|store|rideau|volet|portail|auvent|loquet"
STATES = "allumé|éteint|ouvert|fermé|verrouillé|déverrouillé|activé|désactivé|déclenché|occupé|détecté"
VERBS = (
    "règle|régler|mets|mettre|change|augmente|monte|monter|diminue|baisse|allume|allumer|éteins|éteindre|coupe|arrête"
    "|désactive|active|descends|relance|reprends|remets|lance|démarre|tonds|tondre|arrêter|ouvre|ouvrir|ferme|fermer|écoute|annule"
    "|supprime"
)
PLURAL = rf"(?:(?:{FEMININE}|{MASCULINE})[sx])"

# Classes: f and m take "la" and "le", w and n (feminine and masculine) "l'", p and q plural; x takes no article.
HOUSEHOLD = Household(
    values={
        "area": {
            "m": "salon, bureau, garage, couloir, dressing, cellier*, jardin d'hiver*",
            "f": "cuisine, chambre, salle de bain, salle à manger, buanderie, cave, véranda*, salle de jeux*, "
            "bibliothèque*",
            "w": "entrée",
            "n": "atelier*",
        },
        "floor": {
            "m": "rez-de-chaussée, premier étage, sous-sol, grenier, deuxième étage*, troisième étage*",
        },
        "name/light": {
            "m": "lampadaire, plafonnier, lustre, néon*",
            "f": "lampe de bureau, lampe de chevet, veilleuse, guirlande, lampe à sel, applique murale*, lampe de "
            "lecture*",
        },
        "name/switch": {"f": "machine à café, pompe à eau, bouilloire", "m": "sapin de Noël, chauffage, grille-pain*"},
        "name/fan": {"m": "ventilateur de plafond, brumisateur, ventilateur colonne*", "f": "hotte"},
        "name/input_boolean": {"m": "mode invité, mode vacances*"},
        "name/cover": {
            "m": "volet roulant, velux, portail coulissant, store banne*",
            "f": "baie vitrée, porte de grange*",
        },
        "name/lock": {"f": "porte d'entrée, porte de derrière, porte de la cave, grille du jardin*"},
        "name/valve": {"m": "robinet du jardin, robinet de vidange*", "f": "vanne d'arrosage"},
        "name/climate": {"m": "thermostat, radiateur", "f": "climatisation, pompe à chaleur, clim réversible*"},
        "name/media_player": {
            "f": "télévision, barre de son, platine, radio du matin*",
            "n": "écran géant*",
            "w": "enceinte",
        },
        "name/vacuum": {"m": "robot aspirateur, petit robot*", "w": "aspirateur", "x": "Gaston*"},
        "name/lawn_mower": {"m": "robot tondeuse, robot de tonte*", "f": "tondeuse"},
        "name/todo": {"x": "bricolage, vacances, ménage, fête, cadeaux*"},
        "name/scene": {"x": "soirée cinéma, dîner, détente, matin clair, romantique*"},
        "name/script": {"x": "bonne nuit, départ, réveil*"},
        "name/button": {"f": "sonnette"},
        "name/input_button": {"f": "sonnette"},
        "name/sensor": {"f": "température extérieure, jauge de pluie", "m": "compteur électrique, niveau d'eau*"},
        "name/binary_sensor": {
            "f": "fenêtre du garage, boîte aux lettres, fenêtre du bain*",
            "m": "détecteur de mouvement, détecteur de fumée",
        },
        "name/person": {"x": "Anna, Thomas, Marie, Paul, Sophie, Olivier*, Camille*"},
        "name/weather": {"x": "Paris, Lyon, Bruxelles, Genève, Nantes*, Lille*"},
        "zone": {"m": "travail, bureau, stade*", "w": "école", "f": "maison"},
        "message": {
            "x": "le dîner est prêt, il faut partir, le taxi est là, le colis est arrivé, on est rentrés, "
            "le petit déjeuner est servi*, les invités arrivent*"
        },
        "search_query": {
            "x": "du jazz, Mozart, Abbey Road, Vivaldi, des berceuses, Miles Davis, les tubes de l'été, Boléro, "
            "Édith Piaf*, Bohemian Rhapsody*"
        },
        "timer_name": {"x": "pizza, pâtes, lessive, thé, œufs, pain, gâteau*, sieste*"},
        "timer_command": {
            "x": "éteins la lumière, ouvre le portail, ferme les volets, lance l'aspirateur, allume le chauffage, "
            "verrouille la porte d'entrée*, éteins la télévision*"
        },
        "shopping_list_item": {
            "x": "lait, œufs, pain, pommes, beurre, dentifrice, liquide vaisselle, fromage, café, riz, lait "
            "d'avoine*, carottes*"
        },
        "todo_list_item": {
            "x": "laver les vitres, passeport, crème solaire, appeler mamie, arroser les plantes, piles, ampoules, "
            "payer le loyer*, chargeur*"
        },
    },
    functions="dans|sur|du|de|des|d'|à|au|aux|pour|en|le|la|les|l'|mon|ma|mes",
    before={
        "m": "((dans|sur|pour) )?(le|mon)|du|au",
        "f": "((dans|sur|de|à|pour) )?(la|ma)",
        "w": "((dans|sur|de|à|pour) )?l'",
        "n": "((dans|sur|de|à|pour) )?l'",
        "x": "((sur|dans) la)?|pour|à|de|en",
    },
    rules={
        "pourcent": "(%| %| pourcent| pour cent)",
        "degres": "(°| degrés)",
        "kelvin": " (k|kelvin|kelvins)",
        "dans": "dans",
        "de": "de",
        "tous": "tous",
        "completement": "complètement",
        "piece": "pièce",
        "ou_je_suis": "où je suis",
        "ici": "(ici|dans la pièce|dans cette pièce)",
        "partout": "(partout|dans toute la maison|dans toutes les pièces)",
        "yatil": "(y a-t-il|il y a)",
        "estil": "est",
        "quel": "quel",
        "gs_any": "<yatil> des",
        "gs_which": "quels sont les",
        "gs_howmany": "combien <yatil> de",
        "lumiere": "(lumière|lumières|lampe|lampes)",
        "ventilateur": "ventilateur",
        "ventilateurs": "ventilateurs",
        "media": "(morceau|chanson|musique|film|vidéo|podcast)",
        "volume": "(volume|son)",
        "minuteur": "(minuteur|compte à rebours)",
        "minuteurs": "minuteurs",
        "serrure": "(serrures|portes|verrous)",
        "second_unit": "secondes",
        "minute_unit": "minutes",
        "hour_unit": "heures",
        "active": "(active|lance|démarre)",
        "allume": "(allume|allumer)",
        "augmente": "(augmente|monte)",
        "demarre": "(démarre|lance)",
        "diminue": "(diminue|baisse)",
        "eclaire": "(éclaire|illumine)",
        "eteins": "(éteins|éteindre|arrête|coupe|désactive)",
        "ferme": "(ferme|fermer)",
        "lis": "(lis|lire)",
        "mets": "(mets|mettre)",
        "ouvre": "(ouvre|ouvrir)",
        "regle": "(règle|régler|mets|change)",
        "renvoie": "(renvoie|renvoyer)",
        "reprends": "(reprends|remets|relance)",
        "cree": "(crée|créer)",
        "supprime": "(supprime|annule)",
        "enleve": "(enlève|retranche)",
        "ajoute": "(ajoute|ajouter|rajoute)",
        "verrouille": "verrouille",
        "deverrouille": "déverrouille",
        "nettoie": "(aspire|nettoie)",
        "annonce": "annonce",
        "envoie": "envoie",
        "tond": "(tonds|tondre)",
        "arrete": "(arrête|arrêter)",
        "ecoute": "écoute",
        "coche": "(coche|marque)",
    },
    lists={
        "on_off_states": ("allumé", "éteint"),
        "cover_states": ("ouvert", "fermé"),
        "bs_open_states": ("ouvert", "fermé"),
        "bs_occupancy_states": ("déclenché", "désactivé"),
        "lock_states": ("verrouillé", "déverrouillé"),
        "color": ("en blanc", "rouge", "vert", "bleu", "jaune", "orange", "violet", "rose"),
        "media_class": ("album", "chanson", "playlist", "podcast"),
        "cover_classes": ("volets", "rideaux", "fenêtres", "portes", "portails", "auvents"),
    },
    repairs=(
        (r"(\d)\.5\b", r"\1"),
        (r"(\d)(pour|k\b|kelvin)", r"\1 \2"),
        (r"\b1 (heure|minute|seconde)s", r"1 \1"),
        (r"\ben en ", "en "),
        (r"\bmet ", "mets "),
        (r"\btous le monde", "tout le monde"),
        (r"\btous minuteurs", "tous les minuteurs"),
        (r"\bau liste", "à la liste"),
        (r"\b(arrête|arrêter) (tondre|couper)", r"\1 de \2"),
        (r"\b(r?ajoute\w*) ([^{]*) du (minuteur|compte)", r"\1 \2 au \3"),
        (r"\bcouleur de (lumières|lampes)", r"couleur des \1"),
        (rf"\b({VERBS}) (lumière|lampe)\b", r"\1 la \2"),
        (rf"\btou\w+ (?:le |la |l')?((?:{MASCULINE})[sx])\b", r"tous les \1"),
        (rf"\btou\w+ (?:le |la |l')?((?:{FEMININE})s)\b", r"toutes les \1"),
        (r"reste t il", "reste-t-il"),
        (r"\bvitesse ventilateur", "vitesse du ventilateur"),
        (r"\b(dans|sur|à|de) liste", r"\1 la liste"),
        # The article of a value follows its gender, and joins the preposition.
        (r"(?:\b(?:le|la|les) |\bl')?\{(area|floor|name|state):m", r"le {\1:m"),
        (r"(?:\b(?:le|la|les) |\bl')?\{(area|floor|name|state):f", r"la {\1:f"),
        (r"(?:\b(?:le|la|les) |\bl')?\{(area|floor|name|state):([nw])", r"l'{\1:\2"),
        (r"(?:\b(?:le|la|les) |\bl')\{(\w+):x", r"{\1:x"),
        (
            rf"\b({VERBS}) (vitesse|luminosité|température|pelouse|lecture|musique|chanson|vidéo|playlist|tonte)\b",
            r"\1 la \2",
        ),
        (rf"\b({VERBS}|dans|sur) (volume|son|minuteur|compte|morceau|film|podcast|ventilateur)\b", r"\1 le \2"),
        (rf"\b({VERBS}) ((?:{FEMININE}|{MASCULINE})[sx])\b", r"\1 les \2"),
        (
            rf"({PLURAL}|{FEMININE}|{MASCULINE}|son|volume|pause|luminosité|\}}|%) (le |la |l')\{{(area|floor)",
            r"\1 dans \2{\3",
        ),
        (r"\b(position|son|volume|vitesse|luminosité|couleur|température) (le |la |l')\{name", r"\1 de \2{name"),
        (r"\b(aux) (minuteur|compte)", r"au \2"),
        (r"\b(?:le|la|les|l') ?(artiste|album)", r"l'\1"),
        (r"\b(du|des|de) (le|la|l')", r"de \2"),
        (r"\b(au|aux|à) (le|la|l')", r"à \2"),
        (r"\bde le\b", "du"),
        (r"\bà le\b", "au"),
        # Lights, doors and states agree.
        (r"\b(la|le|l') ?(lumière|lampe)s\b", r"les \2s"),
        (r"\b(les|le|l') ?(lumière|lampe)\b", r"la \2"),
        (r"\b(le|la|les|l') ?(pelouse)", r"la \2"),
        (r"\b(le|la|les|l') ?(herbe)", r"l'\2"),
        (
            r"\b(le|la|les|l') ?(gazon|ventilateur|morceau|film|podcast|son|volume|minuteur|compte|visionnage)\b",
            r"le \2",
        ),
        (r"\b(le|la|les|l') ?(tonte|chanson|musique|vidéo|lecture|météo)\b", r"la \2"),
        (r"\b(mon|ma|mes) ?(minuteur|compte)", r"mon \2"),
        (r"\bde le\b", "du"),
        (r"\bà le\b", "au"),
        (r"\b(au|à) la\b", "à la"),
        (rf"\b(tous|toutes) les ((?:{FEMININE})s)", r"toutes les \2"),
        (rf"\bquels sont les ((?:{FEMININE})s)", r"quelles sont les \1"),
        (rf"\btous ((?:{FEMININE})s)", r"toutes les \1"),
        (rf"\btous ((?:{MASCULINE})[sx])", r"tous les \1"),
        (r"\bdans le \{(floor|state):m", r"au {\1:m"),
        (r"\bde (auvents|éclairages)", r"d'\1"),
        (r"\b(personnes|famille) est\b", r"\1 sont"),
        (r"\btous (la lumière|la lampe)", r"\1"),
        (rf"({PLURAL}) est\b", r"\1 sont"),
        (rf"\b((?:{FEMININE})s(?: sont)?) ({STATES})\b", r"\1 \2es"),
        (rf"\b((?:{MASCULINE})[sx](?: sont)?) ({STATES})\b", r"\1 \2s"),
        (rf"(\{{name:[fw]\|[^}}]*\}}(?: dans [^}}]*\}})?(?: est)?) ({STATES})\b", r"\1 \2e"),
        (r"\bquel est la\b", "quelle est la"),
        (r"\bquel vitesse", "quelle vitesse"),
        (r"\b(donne|dis)s?[- ]moi", r"\1-moi"),
        (r"\b(chanson|musique|vidéo) (suivant|précédent)e?\b", r"\1 \2e"),
        (r"\b(morceau|film|podcast) (suivant|précédent)e?\b", r"\1 \2"),
        (r"\b(minuteur|rebours) (appelé|nommé)e", r"\1 \2"),
    ),
    unreal=(
        rf"\b(des|les|de) ({FEMININE}|{MASCULINE}) |charrue",
        r"\b(en|de) (le|la|les|du|au)\b(?! (lumière|lampe|\{|tonte|pelouse|lecture))",
        r"\b(temps|météo)\b.*\ben détaill|(les|la) temps|(le|les) météo|détaillée?\b(?<!météo détaillée)",
        r"à pour|\bdans à\b|\bsur (à|au)\b|\bdans (au|du)\b",
        r"\b(et|à) \{todo|surnommé|\d+ (h|m|s|min|sec)\b|\bl'\w* |\bdans \{name|pour (le|la|les) \{name",
        r"\bmoi (?!l|u)",
        r"\b(règle|régler|change) [^{]*(ventilateur|\{name)[^}]*\} (en|à) \w+ de",
        r"\bavec la (couleur|luminosité) (à|en)\b|en (blanc|rouge) ?en|couleur en blanc|avec la lumière",
        r"\b(allume|allumer) [^{]*(couleur|luminosité)? ?(à|\d)[^{]*luminosité",
        r"(augmente|monte|baisse|diminue) [^{]*\{[^}]*\} \d|(augmente|diminue|monte|baisse) \d",
        r"^(le|la|l')\{?.* \d|quel (jour|temps) (est-il|est il)|est il\b|heure est il",
        r"(arrête|coupe|désactive|éteins|éteindre) (le|la|les) minuteurs|\d (à|dans) \{",
        r"\} \d+ ?(%|pour)|luminosité \d|\b(état|vitesse|luminosité|couleur|température) (le|la|l')",
        r"température couleur|\b(suivant|précédent)$|mets suivant",
        r"\best (le|la|l') ?\{state|\bde des\b|mettre? de |sourdine (le|la|l')|avant de |liste de \{item",
        r"le ventilateurs",
        r"(marque|coche) \{item:x\|[^}]*\} de \{name",
        r"^encore|(il y a|y a-t-il) .* (sont|est) |\btous (la )?(lumière|lampe)\b|moins basse",
        rf"combien .*{PLURAL} sont",
        r"personnes (sont )?(le|la|l')|(coche|marque) de |pièces (le|la|l'|dans)|combien.*\{name:[mfnw]",
        r"ajoute[r]? liste|met\w* liste|stores?\b|portes? de garage",
        r"(combien fait-il|il fait combien) (le|la|l')|(lumières?|lampes?) (le|la|l')|dans dans",
        r"minuteurs (le|la|l')|(minuteur|rebours) (le|la|l'|\d)",
    ),
)
