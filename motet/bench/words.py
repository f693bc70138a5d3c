"""The words that prompts are made of.

Owns: 256 of them, so that an octet chooses one. Short, lower-case and common: the tokenizers of the
models in use have each as one token, with a blank before it or without.
"""

_TEXT = """
action age air area arm art baby back ball bank begin bird black blue board boat body book boy bread
brown call car care case cat center change child choice church city class close college color
company control cost country course court culture data day death doctor dog door dream drug east
effect end energy event eye face fact family father feel field figure film fire fish floor foot
force form friend future game girl glass gold green ground group hair hand head health heart hill
history hold home horse hour house idea image iron issue job jump kid kind know lake land law leader
learn letter level life light line look lot love man market matter meat member metal milk mind
minute moment money month mother move movie music name nation need news night north number office
oil open others paper parent part party patient people period person phone picture piece place plan
plane plant player point policy power price problem process product program project pull push rain
rate read reason record red report result right ring risk river road role room rule run school sea
season see sense service ship show side sit site sleep snow son song sound source south space stand
star state step stone stop story street student study summer support system table tax teacher team
term test thing think time touch town train tree turn type use value view voice walk wall war water
way week west white whole wife wind window woman wood word work worker world write year
"""

WORDS = tuple(_TEXT.split())
