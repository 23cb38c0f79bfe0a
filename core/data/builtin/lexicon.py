"""The vocabulary of the built-in corpus, in the notation of `grammar.noun`, `grammar.adjective` and `grammar.verb`."""

from typing import NamedTuple

from core.data.builtin import grammar


class Goods(NamedTuple):
    """Nouns of one kind, verbs that take them as objects, and adjectives that fit them."""

    nouns: tuple[grammar.Noun, ...]
    verbs: tuple[grammar.Verb, ...]
    adjectives: tuple[grammar.Adjective, ...]


def _nouns(text: str) -> tuple[grammar.Noun, ...]:
    return tuple(grammar.noun(entry) for entry in text.strip().split("\n"))


def _adjectives(text: str) -> tuple[grammar.Adjective, ...]:
    return tuple(grammar.adjective(entry) for entry in text.strip().split("\n"))


def _verbs(text: str) -> tuple[grammar.Verb, ...]:
    return tuple(grammar.verb(entry) for entry in text.strip().split("\n"))


PERSONS = _nouns("""
boy | garçon | m
girl | fille | f
man/men | homme | m
woman/women | femme | f
child/children | enfant | m
brother | frère | m
sister | sœur | f
father | père | m
mother | mère | f
uncle | oncle | m
aunt | tante | f
cousin | cousin | m
friend | ami | m
neighbor | voisin | m
king | roi | m
queen | reine | f
princess/princesses | princesse | f
teacher | professeur | m
student | étudiant | m
doctor | médecin | m
nurse | infirmière | f
baker | boulanger | m
farmer | fermier | m
lawyer | avocat | m
painter | peintre | m
writer | écrivain | m
actress/actresses | actrice | f
singer | chanteuse | f
dancer | danseuse | f
waitress/waitresses | serveuse | f
soldier | soldat | m
gardener | jardinier | m
""")
PERSON_ADJECTIVES = _adjectives("""
young | <jeune
old | <vieux vieil vieille vieux vieilles
kind | <gentil
happy | heureux
tired | fatigué
rich | riche
famous | célèbre
intelligent | intelligent
serious | sérieux
polite | poli
""")
_PERSON_VERBS = _verbs("""
see sees saw | voir vois voyons voyez voit voient verr vu
help helps helped | aider
thank thanks thanked | remercier
invite invites invited | inviter
admire admires admired | admirer
find finds found | trouver
look_for looks_for looked_for | chercher
call calls called | appeler appelle appelons appelez appelle appellent appeller appelé
""")
_FOOD = _nouns("""
apple | pomme | f
orange | orange | f
pear | poire | f
carrot | carotte | f
tomato/tomatoes | tomate | f
egg | œuf | m
cheese | fromage | m
cake | gâteau/gâteaux | m
soup | soupe | f
salad | salade | f
cookie | biscuit | m
sandwich/sandwiches | sandwich | m
""")
_FOOD_ADJECTIVES = _adjectives("""
good | <bon
bad | <mauvais
big | <grand
small | <petit
hot | chaud
cold | froid
sweet | sucré
fresh | frais
simple | simple
delicious | délicieux
""")
_FOOD_VERBS = _verbs("""
eat eats ate | manger mange mangeons mangez mange mangent manger mangé
prepare prepares prepared | préparer
order orders ordered | commander
share shares shared | partager partage partageons partagez partage partagent partager partagé
taste tastes tasted | goûter
buy buys bought | acheter achète achetons achetez achète achètent achèter acheté
""")
_WRITINGS = _nouns("""
book | livre | m
letter | lettre | f
story/stories | histoire | f
poem | poème | m
newspaper | journal/journaux | m
article | article | m
novel | roman | m
message | message | m
""")
_WRITING_ADJECTIVES = _adjectives("""
old | <vieux vieil vieille vieux vieilles
new | <nouveau nouvel nouvelle nouveaux nouvelles
beautiful | <beau bel belle beaux belles
long | <long
short | court
interesting | intéressant
strange | étrange
famous | célèbre
sad | triste
simple | simple
""")
_WRITING_VERBS = _verbs("""
write writes wrote | écrire écris écrivons écrivez écrit écrivent écrir écrit
finish finishes finished | finir
translate translates translated | traduire traduis traduisons traduisez traduit traduisent traduir traduit
publish publishes published | publier
understand understands understood | comprendre comprends comprenons comprenez comprend comprennent comprendr compris
forget forgets forgot | oublier
""")
_THINGS = _nouns("""
car | voiture | f
bicycle | vélo | m
key | clé | f
hat | chapeau/chapeaux | m
table | table | f
chair | chaise | f
lamp | lampe | f
bag | sac | m
box/boxes | boîte | f
boat | bateau/bateaux | m
tree | arbre | m
flower | fleur | f
picture | image | f
guitar | guitare | f
mirror | miroir | m
shirt | chemise | f
dress/dresses | robe | f
coat | manteau/manteaux | m
umbrella | parapluie | m
clock | horloge | f
""")
_THING_ADJECTIVES = _adjectives("""
old | <vieux vieil vieille vieux vieilles
new | <nouveau nouvel nouvelle nouveaux nouvelles
beautiful | <beau bel belle beaux belles
big | <grand
small | <petit
red | rouge
black | noir
white | blanc
heavy | lourd
expensive | cher
""")
_THING_VERBS = _verbs("""
see sees saw | voir vois voyons voyez voit voient verr vu
find finds found | trouver
sell sells sold | vendre
buy buys bought | acheter achète achetons achetez achète achètent achèter acheté
lose loses lost | perdre
choose chooses chose | choisir
hide hides hid | cacher
draw draws drew | dessiner
clean cleans cleaned | nettoyer nettoie nettoyons nettoyez nettoie nettoient nettoier nettoyé
take takes took | prendre prends prenons prenez prend prennent prendr pris
forget forgets forgot | oublier
love loves loved | aimer
""")
GOODS = (
    Goods(PERSONS, _PERSON_VERBS, PERSON_ADJECTIVES),
    Goods(_FOOD, _FOOD_VERBS, _FOOD_ADJECTIVES),
    Goods(_WRITINGS, _WRITING_VERBS, _WRITING_ADJECTIVES),
    Goods(_THINGS, _THING_VERBS, _THING_ADJECTIVES),
)
GIVING = _verbs("""
give gives gave | donner
show shows showed | montrer
send sends sent | envoyer envoie envoyons envoyez envoie envoient enverr envoyé
bring brings brought | apporter
""")

PLACES = _nouns("""
market | marché | m
school | école | f
station | gare | f
park | parc | m
church/churches | église | f
museum | musée | m
hospital | hôpital/hôpitaux | m
bridge | pont | m
castle | château/châteaux | m
garden | jardin | m
library/libraries | bibliothèque | f
hotel | hôtel | m
river | rivière | f
forest | forêt | f
village | village | m
beach/beaches | plage | f
theater | théâtre | m
bank | banque | f
bakery/bakeries | boulangerie | f
restaurant | restaurant | m
office | bureau/bureaux | m
shop | magasin | m
factory/factories | usine | f
island | île | f
""")
PLACE_ADJECTIVES = _adjectives("""
old | <vieux vieil vieille vieux vieilles
new | <nouveau nouvel nouvelle nouveaux nouvelles
beautiful | <beau bel belle beaux belles
big | <grand
small | <petit
quiet | calme
modern | moderne
famous | célèbre
empty | vide
dark | sombre
""")
# Two that contract with the article (près du, loin des), and two that do not.
PREPOSITIONS = (
    grammar.Text("near", "près de"),
    grammar.Text("far from", "loin de"),
    grammar.Text("behind", "derrière"),
    grammar.Text("in front of", "devant"),
)
ACTIVITIES = _verbs("""
work works worked | travailler
sing sings sang | chanter
dance dances danced | danser
play plays played | jouer
walk walks walked | marcher
cry cries cried | pleurer
sleep sleeps slept | dormir dors dormons dormez dort dorment dormir dormi
laugh laughs laughed | rire ris rions riez rit rient rir ri
run runs ran | courir cours courons courez court courent courr couru
wait waits waited | attendre
eat eats ate | manger mange mangeons mangez mange mangent manger mangé
stay stays stayed | +rester
fall falls fell | +tomber
arrive arrives arrived | +arriver
""")
# The English preposition is written with the verb, the French one melts with the article.
MOVEMENTS = tuple(
    zip(
        _verbs("""
go_to goes_to went_to | +aller vais allons allez va vont ir allé
return_to returns_to returned_to | +retourner
arrive_at arrives_at arrived_at | +arriver
stay_at stays_at stayed_at | +rester
work_at works_at worked_at | travailler
come_from comes_from came_from | +venir viens venons venez vient viennent viendr venu
come_back_from comes_back_from came_back_from | +revenir reviens revenons revenez revient reviennent reviendr revenu
come_out_of comes_out_of came_out_of | +sortir sors sortons sortez sort sortent sortir sorti
leave_for leaves_for left_for | +partir pars partons partez part partent partir parti
enter enters entered | +entrer
"""),
        ("à", "à", "à", "à", "à", "de", "de", "de", "pour", "dans"),
        strict=True,
    )
)

# With the space that follows, so that no degree adds none.
DEGREES = (
    grammar.Text("", ""),
    grammar.Text("very ", "très "),
    grammar.Text("too ", "trop "),
    grammar.Text("really ", "vraiment "),
)
# Equally many for each tense: the choice of a time must not depend on the tense chosen before it.
TIMES: dict[grammar.Tense, tuple[grammar.Text, ...]] = {
    "present": (
        grammar.Text("", ""),
        grammar.Text(" now", " maintenant"),
        grammar.Text(" today", " aujourd'hui"),
        grammar.Text(" every day", " tous les jours"),
    ),
    "past": (
        grammar.Text("", ""),
        grammar.Text(" yesterday", " hier"),
        grammar.Text(" this morning", " ce matin"),
        grammar.Text(" last week", " la semaine dernière"),
    ),
    "future": (
        grammar.Text("", ""),
        grammar.Text(" tomorrow", " demain"),
        grammar.Text(" tonight", " ce soir"),
        grammar.Text(" next week", " la semaine prochaine"),
    ),
}
