"""The words of the agreement task: German nouns with their gender, and what stands around them."""

# English: German. An English "it" for one of these is er, sie or es in German.
NOUNS = {
    "er": """
        table:Tisch chair:Stuhl train:Zug apple:Apfel garden:Garten key:Schlüssel spoon:Löffel
        coat:Mantel shoe:Schuh hat:Hut bucket:Eimer tree:Baum mountain:Berg river:Fluss ball:Ball
        computer:Computer carpet:Teppich mirror:Spiegel letter:Brief stone:Stein cake:Kuchen
        oven:Ofen suitcase:Koffer plough:Pflug
    """,
    "sie": """
        door:Tür lamp:Lampe clock:Uhr bottle:Flasche cup:Tasse street:Straße bridge:Brücke
        flower:Blume bag:Tasche wall:Wand city:Stadt church:Kirche kitchen:Küche box:Kiste
        candle:Kerze map:Karte newspaper:Zeitung school:Schule bench:Bank stair:Treppe pan:Pfanne
        island:Insel machine:Maschine ladder:Leiter
    """,
    "es": """
        house:Haus book:Buch window:Fenster car:Auto bed:Bett glass:Glas shirt:Hemd ship:Schiff
        picture:Bild knife:Messer bread:Brot paper:Papier bicycle:Fahrrad boat:Boot dress:Kleid
        room:Zimmer roof:Dach wheel:Rad lock:Schloss towel:Handtuch piano:Klavier egg:Ei
        field:Feld village:Dorf
    """,
}
ARTICLES = {"er": ("der", "den"), "sie": ("die", "die"), "es": ("das", "das")}  # and accusative
ADJECTIVES = """
    old:alt new:neu big:groß small:klein green:grün red:rot blue:blau black:schwarz white:weiß
    clean:sauber dirty:schmutzig beautiful:schön cheap:billig heavy:schwer light:leicht long:lang
"""
# What stands between: nobody and nothing that "it" could be, but genders and a "sie" all the same.
PEOPLE = """
    the_man:der_Mann the_woman:die_Frau the_teacher:der_Lehrer the_nurse:die_Schwester anna:Anna
    peter:Peter the_child:das_Kind the_girl:das_Mädchen the_boy:der_Junge the_aunt:die_Tante
"""
VERBS = "sings:singt sleeps:schläft waits:wartet laughs:lacht works:arbeitet runs:läuft cooks:kocht"
TIMES = "today:heute here:hier often:oft again:wieder now:jetzt"
MANY = """
    they_are_happy_.:sie_sind_froh_. we_wait_for_them_.:wir_warten_auf_sie_.
    they_wait_.:sie_warten_. she_laughs_.:sie_lacht_. he_sleeps_.:er_schläft_.
    we_work_today_.:wir_arbeiten_heute_.
"""


def pairs(text: str) -> list[tuple[str, str]]:
    """The words of a list, English and German."""
    found = []
    for word in text.split():
        english, german = word.split(":")
        found.append((english.replace("_", " "), german.replace("_", " ")))
    return found


NOUNS_OF = {gender: pairs(text) for gender, text in NOUNS.items()}
