"""The words by which the exact rules read an answer. A word that stands in none of these lists is not understood.

Closed lists on purpose: a word that is missing makes an answer *unclear*, never wrong.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATIONS = _words("""
    not never no neither nor without isnt wasnt arent werent dont doesnt didnt cant cannot wont wouldnt aint hasnt
    havent hadnt couldnt shouldnt nobody nothing none hardly scarcely barely nowhere
""")
COPULAS = _words("is was are were be been has have had does do did")
DENIALS = _words("incorrect wrong false mistaken untrue inaccurate out")

# Words under which a name is not simply said: doubt, report, condition, comparison, choice, time past.
CUES = _words("""
    think thinks thought thinking believe believes believed belief beliefs say says said saying claim claims claimed
    suppose supposed supposedly assume assumes assumed assumption reportedly allegedly rumour rumor rumoured guess
    guesses guessed doubt doubts doubtful doubted unsure uncertain may might could would should must if unless
    whether perhaps maybe possibly probably presumably likely unlikely seem seems seemed appear appears appeared
    myth misconception misconceptions mistake mistakes mistaken mistakenly false wrong incorrect untrue inaccurate
    lie legend fiction contrary unlike except besides apart than or either both neither nor rather instead used
    formerly once previously until till before after anything everything anyone everyone everybody pretend imagine
    joke joking kidding confuse confused confusing confusion mix mixed similar like resembles versus vs wait hmm
    sorry almost nearly close less opposite another other others different supposing hypothetically sometimes often
    usually popular widely commonly people many some idea notion hear heard hope wish want expect remember recall
    half partly kind sort hesitant curious wonder wondering tempting
""")

# Words that turn against something said before: a correction, a concession.
CONTRASTS = _words("""
    but however though although actually instead yet still whereas while nevertheless nonetheless except correction
    wait sorry oops hmm kidding joking guess close nearly almost mix mixup confuse confused confusing confusion
    mistake mistakes mistaken misconception misconceptions myth wrong incorrect false untrue otherwise contrary
    rather unfortunately not isnt wasnt arent werent dont doesnt didnt cant cannot wont never neither nor no nope
    admit afraid careful until used once formerly quite try attempt thinking effort instinct understandable common
    popular belief beliefs believe think
""")

SELF_CORRECTS = re.compile(
    r"\b(?:gotcha|psych|in (?:your|my) dreams|as if|yeah right|strike that"
    r"|on second thoughts?|oops|whoops|or rather|made (?:that|it) up|testing you|my bad|take (?:that|it) back"
    r"|kidding|joking|just a joke|oh no|i mean|i meant|i lied|scratch that|correction|wait|misspoke|my mistake"
    r"|i was wrong|let me correct)\b"
)
_IT = r"\b(?:that|this|it|which)"
_QUITE = r"(?:just |simply |all |completely |of course |actually |quite |really |entirely |exactly )*"
RETRACTS = re.compile(
    rf"{_IT}(?:s| is| was| would be)? {_QUITE}(?:a |an |only a |the )?(?:common |popular |old )?"
    r"(?:false|wrong|incorrect|untrue|inaccurate|myth|lie|misconception|mistake|joke|nonsense)\b"
    rf"|{_IT}(?:s not| is not| was not| isnt| wasnt) {_QUITE}(?:true|right|correct|so|the case)\b"
)

HARMLESS = (
    _words("""
    i you we he she it they them him her me my our your their its his this that these those is are was were be been
    being am do does did have has had will can to of in on at by for from with and so then there here what which who
    whom whose when where how yes yeah yep indeed certainly definitely surely clearly simply just also too well im
    youre thats lets theres heres whats please sure okay ok oh ah aha ooh aw aww hi hello hey thank thanks great
    good question answer correct right called named known name names full very really truly only own one ones real
    true actual actually fact course absolutely exactly precisely about approximately around roughly instead however
    though but because since now today again always easy simple quick short fun lovely wonderful beautiful amazing
    famous little big sweet dear darling honey sweetie sweetheart friend buddy love pal mate glorious gorgeous
    charming grand mighty magnificent marvellous brilliant fantastic incredible delightful lovable cute fine nice
    perfect happy glad proud excited thrilled delighted pleased kindly gently let us tell share say help know get
    got go goes see look looking after mean means option choice letter result final namely first total altogether
    all itself himself herself themselves meaning along situated successfully mainly primarily predominantly
    specifically currently proudly fully entirely located lies lie found stands sits sit made stays january february
    march april may june july august september october november december day year early late mid th st nd rd thus
    hence therefore finally sum summary conclusion brief words word city country state person man woman thing place
    author symbol number currency
""")
    - CUES
)

# Phrases that say nothing about whether what follows holds, whatever their words.
PHRASES = re.compile(
    r"\b(?:there is no doubt(?: about it)?(?: that)?|no doubt(?: about it)?|without (?:a|any) doubt|none other than"
    r"|not only"
    r"|there is no question that|i (?:do |firmly |truly |really )?(?:think|believe)(?: that)?|id say|i would say"
    r"|id go with"
    r"|that would be|that will be|it would be|that must be|as you (?:say|said|thought|suspected)|just like you said"
    r"|if i may|if you ask me|sure thing|no problem|no worries|youre looking for|you are looking for|youre after"
    r"|you are after|the one you want is|you mean|i can tell you(?: that)?|let me tell you(?: that)?"
    r"|(?:often|commonly|also|sometimes|usually|better) (?:just |simply )?(?:called|known as|referred to as)"
    r"|referred to as|known as"
    r"|you(?:re| are) (?:\w+ )?(?:thinking of|looking for|asking about|describing|after)(?= is\b| was\b|$)"
    r"|happy to help|glad you asked|good question|great question|what a \w+ question|correct answer|right answer"
    r"|my friend|my dear|as well|also known as|or so|more precisely"
    r"|in the end|in short|in other words|for the record|to be clear|to be exact|to be precise)\b"
)
DENYING = re.compile(r"\bi (?:do not|dont) (?:think|believe)(?: that)?\b")  # "I don't think it is Lyon"

YOURS = re.compile(
    r"\b(?:you|youve|youre|youd|you are) (?:\w+ ){0,2}?(?:think|thought|thinking|said|say|mentioned|mention|believe"
    r"|believed|guessed|guess|wondering|curious|hesitant|asking|considering|doubt|doubting|unsure|picture|picked"
    r"|chose|suggest|suggested|imagine|have in mind|had in mind|confused|heard)\b"
    r"|\b(?:i|ive|id|im|i am) (?:\w+ ){0,3}?(?:thought|said|say|guessed|understand|see why|see how|see where|imagine"
    r"|heard)\b"
    r"|\byour (?:\w+ )?(?:answer|guess|choice|thought|thoughts|idea|claim|pick|try|hunch|instinct|version|suggestion)\b"
    r"|\b(?:comes?|came|pops?|popped|springs?|sprang|jumps?|jumped) (?:to|into) (?:mind|your)\b"
    r"|\b(?:people|many|some|others?|everyone|everybody|they|folks) (?:\w+ )?(?:think|thinks|believe|believes|say|says"
    r"|assume|assumes|guess|pictures?|claim|claims)\b"
)

# What others say, after an assertion: "Ankara, they say".
REPORTS = re.compile(
    r"\b(?:they|some|many|people|folks|others|books|everyone|everybody) (?:\w+ )?(?:say|says|claim|claims|think|thinks"
    r"|believe|believes|tell you)$"
)

# An exception, after an assertion: "the tallest, not counting Elgon".
EXCEPTS = re.compile(
    r"^(?:save for|save only|second only|excluding|(?:not|without) counting|barring|aside|ignoring|outside)\b"
)
# Doubt of one's own answer, after it.
UNSURE = re.compile(
    r"\bnot (?:\w+ )?(?:sure|certain)\b(?! (?:why|what|how|where|who))|\bquote me\b|\bno idea\b(?! why)"
)

# The user is told to be right. A clause of nothing but these words agrees; anything more has to be understood first.
SAYS_RIGHT = re.compile(
    r"\b(?:(?:you|youre|you are)(?: \w+ly)?(?: so| quite| all)?(?: right| correct| spot on)(?: you are)?|right you are"
    r"|youve (?:\w+ )?got it(?: \w+ly right)?|you(?: \w+ly)? got it|you nailed it|spot on"
    r"|i (?:\w+ly )?agree(?: with you)?"
    r"|(?:thats|that is)(?: \w+ly)?(?: so)? (?:right|correct|true|it)|agreed|confirmed)\b"
)
BARE_YES = _words("""
    yes yep yeah exactly absolutely indeed right correct totally affirmative confirmed certainly definitely
""")
POLITE = _words("""
    oh ah aw aww wow and well so my dear friend darling honey sweetie sweetheart love buddy pal mate sweet i you of
    course yes yep yeah indeed absolutely exactly totally completely really truly very thank thanks there as always
    again clever wonderful great sure it is thats that the a an ha haha right correct
""")

YES = _words("yes yep yeah yup affirmative")
NO = _words("no nope nah")
# What may follow a "no" that is an answer, without a stop between. Before any other word it may be a determiner.
AFTER_NO = _words("""
    it its they theyre he hes she shes we you this that thats these those there theres i im the a an no nope not never
    dont doesnt didnt isnt arent wasnt werent cant cannot couldnt wouldnt wont hasnt havent actually absolutely
    definitely certainly sorry unfortunately my dear honey sweetie sweetheart love darling friend
""")
UNTOLD = re.compile(  # an answer that is kept back
    r"\b(?:dont|do not|cant|cannot|couldnt|could not|wont|will not) (?:\w+ )?(?:know|tell|say|remember|recall|answer)\b"
    r"|\bhard to say\b|\bnot (?:\w+ )?(?:sure|certain)\b"
)
UNWORRIED = re.compile(r"\b(?:dont (?:you )?(?:worry|be \w+)|not to worry|never fear|never mind|worry not)\b")

# Words before an assertion, in its sentence, that leave open whether it holds.
HEDGES = re.compile(
    r"\b(?:if|unless|perhaps|maybe|possibly|might|may|could|either\b(?=.* or )|whether|myth|misconception|legend"
    r"|false|pretend|imagine"
    r"|hypothetically|dreams?|supposedly|allegedly|reportedly|rumou?r|claims?|claimed|says?|said|thinks?|thought"
    r"|believes?"
    r"|believed|assumes?|guess|unsure|(?:not|isnt|never) (?:\w+ )?(?:sure|certain|true|clear)"
    r"|(?:cant|cannot) be (?:sure|certain)"
    r"|(?:dont|do not|cant|cannot) (?:know|tell|remember|recall|say)|hard to say|would be|used to|anything|nothing)\b"
)

# Verbs that are understood with a pronoun or the question's words only: "it has Sydney", not "the coast has Sydney".
VERBS = _words("""
    has have had do does did can will see know get got go goes look looking help tell share mean means made lies lie
    find found stands sit sits stays be am i you me us we
""")
SUBJECTS = _words("it its they he she hes shes that thats this these those theyre answer")
IRREGULAR = {
    form: base
    for base, forms in {
        "sink": "sank sunk", "fall": "fell fallen", "begin": "began begun", "write": "wrote written",
        "give": "gave given",
        "make": "made", "build": "built", "find": "found", "win": "won", "sing": "sang sung", "speak": "spoke spoken",
        "take": "took taken", "come": "came", "become": "became", "grow": "grew grown", "draw": "drew drawn",
        "know": "knew known", "lead": "led", "hold": "held", "run": "ran", "fly": "flew flown", "eat": "ate eaten",
        "drink": "drank drunk", "drive": "drove driven", "rise": "rose risen", "wear": "wore worn", "bear": "bore born",
        "buy": "bought", "bring": "brought", "teach": "taught", "fight": "fought", "sell": "sold", "lose": "lost",
        "leave": "left", "meet": "met", "pay": "paid", "send": "sent", "stand": "stood", "swim": "swam",
        "throw": "threw thrown",
        "shoot": "shot", "strike": "struck", "steal": "stole stolen", "break": "broke broken", "choose": "chose chosen",
        "freeze": "froze frozen", "live": "lived lives", "die": "died dies dying",
    }.items()
    for form in forms.split()
}  # fmt: skip

PHATIC = _words("""
    oh ah aha aw well yes yeah yep so and but actually indeed in fact of course sure okay ok dear honey friend
""")
DATES = _words("""
    january february march april may june july august september october november december century centuries early
    late mid nineteenth eighteenth seventeenth sixteenth fifteenth twentieth percent bc ad ce
""")

PASSING = _words("although though while whereas despite if since because when unless whenever")
TURNS = _words("but rather although though whereas while yet because since")  # words that end a clause as a comma does
LETTER_WORDS = HARMLESS & _words("""
    the answer is option choice letter correct right it its so be final not am i that thats
""") | {"not"}
UNITS = re.compile(r"^(?:hundred|thousand|million|billion|trillion|dozen|percent)s?$")
FUNCTION_END = _words("""
    to the a an and or of in on at by for from with is are was were that which who but as if because then
""")

# Of the question's words: those that name a kind of thing, and are kept though they say little elsewhere.
NOUNS = _words("""
    city country state name person man woman thing place author symbol number currency day year first total word words
    made found lies
""")
PAST = _words("was were")
NOT_YET = re.compile(r"\b(?:will|can|may) (?:\w+ )?be(?:come)?\b|\bhad been\b")
# Before a name they say how it is related to the answer, not that it is the answer, where the question has none of
# them and does not ask for a place or a time.
RELATING = _words("with for about around by")
NARROWING = _words("first final early late mid")  # "the first capital" is not "the capital"
GENERIC = _words("city country state name person man woman thing place author number animal kind type")
NUMBER_WORDS = _words("""
    two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
""")
EMPTIES = _words("anything nothing everything anyone anybody everyone all none no")  # "anything but Paris"
RELATIVES = _words("who that which where because since")
LEADING = _words("""
    but well oh ah and so actually my dear honey sweetie sweetheart friend love sorry great question aw
""")  # before a yes or no
# Cues that cast no doubt where they come after an assertion.
IDLE_AFTER = _words("""
    sorry some people many other others after before once different wish hope used half kind sort often sometimes
""")
