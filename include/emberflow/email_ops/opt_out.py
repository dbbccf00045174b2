"""A person asks not to be written to again: by the subject or address of a mailto link, or in a reply's own words.

Only what the person wrote themselves counts (:mod:`emberflow.email_ops.unquoted`): our own footer, quoted under a
friendly reply, is no request. A word that people also talk *about* ("our unsubscribe rate") counts as a request only
as an imperative: alone, or with an object.
"""

from __future__ import annotations

import re

from emberflow.email_ops.evidence import Evidence, in_text

_OWN_CHARACTERS = 2_000

_COMMANDS = (
    r"unsubscribe|un-?subscribe me|opt[- ]?out|opt me out|remove(?: me)?|stop|cancel(?: subscription)?|take me off"
    r"|no more(?: e?-?mails?)?"
    r"|abmelden|abmeldung|abbestellen|austragen|bitte austragen|stopp"
    r"|d[eé]sabonner|d[eé]sabonnement|d[eé]sinscription|d[eé]sinscrire|stop pub"
    r"|(?:dar(?:me)? de )?baja|cancelar suscripci[oó]n|desuscribir(?:me)?|no recibir m[aá]s"
    r"|disiscri(?:vi|vimi|zione)|cancella(?:mi|zione)|annulla iscrizione|rimuovi(?:mi)?"
    r"|descadastrar|cancelar (?:a )?(?:inscri[cç][aã]o|assinatura)|remover|descadastre-me"
    r"|afmelden|uitschrijven|schrijf mij uit"
)
# The whole subject, or a line of its own; a link may put a token or an address behind it.
_COMMAND = re.compile(
    rf"(?:please|bitte|svp|s'il vous pla[iî]t|por favor|per favore|prego|alstublieft|graag)?[\s,]{{0,3}}(?:{_COMMANDS})"
    r"(?:[\s,]{1,3}(?:please|me|us|bitte|thanks?|thank you|danke|merci|gracias|grazie|obrigad[oa]|bedankt|all))?"
    r"(?:[\s:=-]{1,3}[A-Za-z0-9._=+/@-]{1,200})?[\s.!]{0,5}",
    re.IGNORECASE,
)
_LOCAL_PART = re.compile(
    r"(?:unsubscribe|unsub|opt-?out|list-?unsubscribe|abmelden|desabonner)(?:[+._=-].{0,200})?@", re.IGNORECASE
)

# In a sentence: a verb with its object.
_REQUEST = re.compile(
    r"(?<!to )\bunsubscribe (?:me|us|this|my|our|the following|from (?:this|your|all|the|these|any|future))"
    r"|\b(?:please|kindly|just) unsubscribe\b(?! (?:rate|link|button|option|page|header))|\bi(?:'d"
    r"| would)? (?:want|wish|like|need) to (?:unsubscribe|opt[- ]?out|be (?:removed|taken off|unsubscribed))"
    r"|\b(?:remove|delete|take|drop|strike) (?:me|us|my (?:e-?mail|address|name|data|details|contact)"
    r"|our (?:e-?mail|address|company|name)|this (?:e-?mail|address))\b.{0,60}?\b(?:from|off|list|database|mailing"
    r"|records|crm|out)\b"
    r"|\b(?:remove|delete) me\b|\btake me off\b|\bopt(?:ing)? (?:me )?out\b(?! (?:rate|link|button|option|page))"
    r"|\b(?:stop|quit|cease) (?:e-?mailing|contacting|writing(?: to)?|messaging|spamming|sending|bothering|harassing)\b"
    r"|\b(?:do not|don'?t|never|please don'?t) (?:ever )?(?:e-?mail|contact|write(?: to)?|message|send|spam"
    r"|bother) (?:me|us|any|more|this)\b"
    r"|\bno (?:more|further) (?:e-?mails?|messages|contact|mail)\b|\bno longer (?:wish|want) to (?:receive"
    r"|be contacted|get|hear)"
    r"|\bdo(?: not|n'?t) (?:wish|want) to (?:receive|be contacted|get|hear).{0,30}(?:any ?more|again|further"
    r"|from you|e-?mails?|messages)"
    # German
    r"|\b(?:nehmen|l[oö]schen|streichen|entfernen|tragen|melden) sie (?:mich|uns|meine|unsere"
    r"|diese).{0,80}(?:verteiler|liste|datenbank|adresse|daten|ab|aus|system)\b"
    r"|\baus (?:ihrem|dem|eurem) (?:e-?mail-?)?(?:verteiler|newsletter).{0,40}(?:nehmen|l[oö]schen|streichen"
    r"|entfernen|austragen)|\bkeine (?:weiteren |weitere )?(?:e-?mails?|mails|nachrichten|werbung"
    r"|newsletter) (?:mehr|zusenden|senden|schicken|von ihnen)"
    r"|\b(?:kontaktieren|schreiben|mailen|anschreiben) sie (?:mich|uns|mir) (?:bitte )?nicht(?: mehr| wieder)?"
    r"|\bm[oö]chte (?:ich )?(?:mich )?(?:abmelden|keine)"
    # French
    r"|\b(?:d[eé]sabonn|d[eé]sinscri|retire|supprime)\w*[- ](?:moi|nous|mon|notre|mes)\b|\b(?:me"
    r"|nous) (?:d[eé]sabonner|d[eé]sinscrire|retirer de|supprimer de)|\b(?:ne|plus) (?:souhaite|veux"
    r"|d[eé]sire)\w* plus (?:recevoir|[eê]tre contact)"
    r"|\bne (?:me|nous) (?:contacte|[eé]crive|sollicite|envoye)\w* plus|\barr[eê]te[rz]? de m(?:e |')"
    # Spanish
    r"|\b(?:denme|darme|dame|deme|d[eé]nme|quiero darme|solicito) (?:la |de )?baja|\b(?:elimin|borr|quit|retir"
    r"|sac)\w+(?:me|nos)\b.{0,60}(?:lista|base|correo)|\bno (?:me |nos )(?:env[ií]|escrib|contact|mand)\w+ m[aá]s"
    r"|\bno (?:deseo|quiero|deseamos) (?:recibir|seguir recibiendo)"
    r"|\bdejen? de (?:enviar|escribir|mandar|contactar)"
    # Italian
    r"|\b(?:cancell|rimuov|togli|elimin|disiscriv)\w*(?:mi|ci|temi|etemi|eteci|atemi)\b|\bnon (?:desidero|voglio"
    r"|desideriamo|vogliamo) (?:pi[uù] )?(?:ricevere|essere contatt)|\bnon (?:scrivetemi|contattatemi|inviatemi"
    r"|mandatemi) pi[uù]|\bsmett\w+ di (?:scriver|contatt|inviar|mandar)"
    # Portuguese
    r"|\b(?:remov|retir|exclu|descadastr|tir)\w+[- ]?(?:me|nos|meu|minha)\b.{0,60}(?:lista|base|e-?mail|contato"
    r"|cadastro)|\bn[aã]o (?:quero|desejo|gostaria de) (?:mais )?receber|\bpar(?:e|em) de (?:enviar|me enviar"
    r"|escrever|mandar)|\bn[aã]o me (?:envi|contat|escrev|mand)\w+ mais"
    # Dutch
    r"|\b(?:schrijf|meld|haal|verwijder) (?:mij|me|ons|mijn)\b.{0,60}(?:uit|af|lijst|bestand|adres)\b"
    r"|\bgeen (?:e-?mails?|mails?|berichten) meer|\b(?:wil|wens) (?:geen|niet (?:meer|langer)).{0,40}(?:ontvangen"
    r"|benaderd|mails?)|\bstop met (?:mailen|sturen|schrijven)",
    re.IGNORECASE,
)
_NOT_A_REQUEST = re.compile(
    r"\b(?:do not|don'?t|never) unsubscribe\b|"
    r"\b(?:do not|don'?t|did not|didn'?t|never) (?:want|wish|mean|intend|need) to (?:unsubscribe|opt)"
    r"|\bhow (?:many|often|high)\b.{0,60}unsubscribe"
    r"|\b(?:ohne|sans|sin|senza|sem|zonder|without) (?:me |mich )?(?:unsubscrib|abmeld|d[eé]sabonn)",
    re.IGNORECASE,
)


def opt_out_by_link(subject: str, to_address: str | None, *, is_reply: bool) -> Evidence | None:
    """Return the address or the subject that a ``mailto:`` link to opt out fills in, or None.

    Mail programs also send such a message by themselves when their user presses a button (RFC 2369 3.2), so it may say
    of itself that it is automatic.
    """
    if to_address is not None and _LOCAL_PART.match(to_address):
        return Evidence("header To", to_address)
    # The subject of a reply is ours, not the person's.
    if not is_reply and _COMMAND.fullmatch(subject.strip()[:300]):
        return Evidence("header Subject", subject)
    return None


def opt_out_in_words(own_text: str, where: str) -> Evidence | None:
    """Return the line in which a person asks for no more mail, or None. ``own_text`` is unquoted."""
    text = own_text[:_OWN_CHARACTERS].replace("\u2019", "'")
    at = 0
    for line in text.split("\n"):
        if _COMMAND.fullmatch(line.strip()[:300]) and len(line.split()) <= 6:
            return in_text(f"{where}, unquoted", text, at)
        at += len(line) + 1
    flat = text.replace("\n", " ")
    found = _REQUEST.search(flat)
    if found is None or _NOT_A_REQUEST.search(flat):
        return None
    return in_text(f"{where}, unquoted", text, found.start())
