"""Answerer x test split -> VqaEvaluation: the only place that scores the answers of a test split.

n items (questions about triples)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from scanomaly.config.vqa import VqaRun
from scanomaly.data.images import as_bytes, read_image
from scanomaly.data.mivqa import Corpus, VqaItem
from scanomaly.errors import DataError
from scanomaly.metrics import Estimate
from scanomaly.metrics.answers import (
    SIGNATURES,
    class_metrics,
    closed_metrics,
    majority_answers,
    mean_estimates,
    open_metrics,
)
from scanomaly.metrics.closed_answers import confusion
from scanomaly.questions import FREE, NORMAL, Question, classify, is_unseen, question_of
from scanomaly.vqa.checkpoint import FittedAnswerer
from scanomaly.vqa.fitting import no_unseen, training_items
from scanomaly.vqa.items import by_triple
from scanomaly.vqa.nli import Judge, load_judges
from scanomaly.vqa.results import (
    AnsweredItem,
    Metrics,
    OpenSet,
    OpenSetPart,
    QuestionResult,
    VqaEvaluation,
    VqaPanel,
)

Progress = Callable[[int, int], None]

OPEN_SET_QUESTION = "C1"
QUESTION_METRICS = {
    True: ("class_accuracy", "accuracy", "f1_macro"),
    False: ("first_word", "bleu_1", "bleu_4", "rouge_l"),
}
"""Closed or not -> what is reported of a single question; CIDEr needs them all."""
TRIPLES_AT_ONCE = 8
PANELS_OF_A_KIND = 6
PANEL_KINDS = ("right", "wrong")


def evaluate(
    fitted: FittedAnswerer,
    corpus: Corpus,
    *,
    nli: Sequence[str] = (),
    progress: Progress | None = None,
) -> VqaEvaluation:
    """Ask the questions of the test split. nli: models by name or path, which judge open answers.

    Free questions are measured each on its own and take no part in any summary. Raises DataError
    without a test split and for a question that is too long, and WeightsError for a model that is
    not on this machine, before anything is asked.
    """
    judges = load_judges(nli, fitted.answerer.device)
    known, unseen = _items_to_ask(fitted.run, corpus)
    _require_prompts(fitted, (*known, *unseen))
    started = time.monotonic()
    rows = _asked(fitted, (*known, *unseen), progress)
    seconds = (time.monotonic() - started) / len(rows)
    scored, others = rows[: len(known)], rows[len(known) :]
    majority = _majority(fitted.run, corpus)
    closed = [row for row in scored if row.question.closed]
    standard = [row for row in scored if not row.question.closed and row.question.name != FREE]
    return VqaEvaluation(
        run=fitted.run,
        dataset=corpus.name,
        splits={**fitted.splits, "scored": _count_words(known, unseen)},
        closed=_closed(closed),
        open=_open(standard),
        closed_baseline=_closed(_always(closed, majority)),
        open_baseline=_open(_always(standard, majority)),
        gain=_gain(closed, majority),
        nli={name: _judged(judge, standard) for name, judge in judges.items()},
        questions=_by_question(scored, majority),
        open_set=_open_set(scored, others) if others else None,
        signatures={**SIGNATURES, **_judge_signatures(judges)},
        rows=rows,
        panels=_panels(fitted.run, scored),
        resampled="patients" if corpus.patients_known else "triples (patients are unknown)",
        seconds_per_answer=seconds,
        weights=fitted.weights,
        notes=tuple(_notes(fitted.run, corpus, rows, majority)),
        decoding=fitted.decoding,
    )


def _items_to_ask(run: VqaRun, corpus: Corpus) -> tuple[tuple[VqaItem, ...], tuple[VqaItem, ...]]:
    """Test items of kinds that may have been trained on, and cases of unseen kinds.

    The second are asked whether they are normal: in test where no training item is of those kinds,
    and in every split where the run left them out. Raises DataError without a test split.
    """
    if not corpus.test:
        raise DataError(
            f"{corpus.name}: expected a test split to evaluate on, found none ({corpus.source}); "
            "add questions with split test, or use `scanomaly ask`."
        )
    if any(is_unseen(item.category) for item in training_items(run, corpus.train)):
        return corpus.test, ()
    known = tuple(item for item in corpus.test if not is_unseen(item.category))
    unseen = tuple(
        item
        for item in (corpus.items if run.data.exclude_unseen else corpus.test)
        if is_unseen(item.category) and question_of(item.question).name == OPEN_SET_QUESTION
    )
    if not known:
        raise DataError(
            f"{corpus.name}: all test cases are of kinds that were not trained on; give a corpus "
            "with other cases too."
        )
    return known, unseen


def _require_prompts(fitted: FittedAnswerer, items: Sequence[VqaItem]) -> None:
    """Raises DataError, naming the item, for a question that leaves no token for its answer."""
    for item in {item.question: item for item in reversed(items)}.values():  # the first of each
        try:
            fitted.answerer.packing.prompt(item.question)
        except DataError as error:
            raise DataError(f"{item.id}: {error}") from error


def _asked(
    fitted: FittedAnswerer, items: Sequence[VqaItem], progress: Progress | None
) -> tuple[AnsweredItem, ...]:
    """Every item with its answer, in the order given; some triples at a time."""
    triples = list(by_triple(items).values())
    found: dict[str, AnsweredItem] = {}
    for start in range(0, len(triples), TRIPLES_AT_ONCE):
        some = triples[start : start + TRIPLES_AT_ONCE]
        asked = [item for triple in some for item in triple]
        for item, given in zip(asked, fitted.answers(some), strict=True):
            found[item.id] = _line(item, given.text, given.log_probability)
        if progress:
            progress(len(found), len(items))
    return tuple(found[item.id] for item in items)


def _line(item: VqaItem, text: str, log_probability: float) -> AnsweredItem:
    question, truth, answer = question_of(item.question), item.answer.strip(), text.strip()
    correct = _is_right(question, truth, answer) if question.closed else None
    return AnsweredItem(item, question, truth, answer, log_probability, correct)


def _is_right(question: Question, truth: str, answer: str) -> bool:
    """Whether a closed answer is of the right class; text outside the vocabulary is not."""
    given = classify(question.name, answer)
    return given is not None and given == classify(question.name, truth)


def _majority(run: VqaRun, corpus: Corpus) -> dict[str, str]:
    """Key of a question -> its most frequent answer in training."""
    items = training_items(run, corpus.train)
    keys = [question_of(item.question).key for item in items]
    return majority_answers(keys, [item.answer.strip() for item in items])


def _always(rows: Sequence[AnsweredItem], majority: Mapping[str, str]) -> list[AnsweredItem]:
    """The same lines, as if the majority's answer had been given to each."""
    return [_line(row.item, majority.get(row.question.key, ""), 0.0) for row in rows]


def _closed(rows: Sequence[AnsweredItem]) -> dict[str, Estimate]:
    return closed_metrics([row.question.name for row in rows], *_texts(rows))


def _open(rows: Sequence[AnsweredItem]) -> dict[str, Estimate]:
    return open_metrics(*_texts(rows))


def _texts(rows: Sequence[AnsweredItem]) -> tuple[list[str], list[str], list[str]]:
    """Answers, truths, and what is resampled together."""
    return (
        [row.answer for row in rows],
        [row.truth for row in rows],
        [row.item.group for row in rows],
    )


def _gain(rows: Sequence[AnsweredItem], majority: Mapping[str, str]) -> Estimate:
    if not all(row.question.key in majority for row in rows):
        return Estimate.undefined("the training split has no answers to compare with")
    pairs = zip(rows, _always(rows, majority), strict=True)
    gains = [int(row.correct is True) - int(other.correct is True) for row, other in pairs]
    return mean_estimates({"gain": gains}, _texts(rows)[2])["gain"]


def _judge_signatures(judges: Mapping[str, Judge]) -> dict[str, str]:
    return {name: judge.signature for name, judge in judges.items()}


def _judged(judge: Judge, rows: Sequence[AnsweredItem]) -> dict[str, Estimate]:
    """Shares of the relations between answer (premise) and reference (hypothesis)."""
    answers, truths, groups = _texts(rows)
    return mean_estimates(judge.relations(answers, truths), groups)


def _by_question(
    rows: Sequence[AnsweredItem], majority: Mapping[str, str]
) -> tuple[QuestionResult, ...]:
    asked: dict[str, list[AnsweredItem]] = {}
    for row in rows:
        asked.setdefault(row.question.key, []).append(row)
    in_order = sorted(
        asked.values(), key=lambda some: (some[0].question.name, some[0].question.key)
    )
    return tuple(_question(some, majority) for some in in_order)


def _question(rows: Sequence[AnsweredItem], majority: Mapping[str, str]) -> QuestionResult:
    question = rows[0].question
    measure = _closed if question.closed else _open
    always = _always(rows, majority)
    names = QUESTION_METRICS[question.closed]
    answers, truths, _ = _texts(rows)
    return QuestionResult(
        question=question,
        items=len(rows),
        metrics=_only(measure(rows), names),
        majority=majority.get(question.key),
        baseline=_only(measure(always), names) if question.key in majority else {},
        gain=_gain(rows, majority) if question.closed else None,
        confusion=confusion(question.name, answers, truths) if question.closed else None,
    )


def _only(metrics: Metrics, names: Sequence[str]) -> dict[str, Estimate]:
    return {name: metrics[name] for name in names}


def _open_set(known: Sequence[AnsweredItem], unseen: Sequence[AnsweredItem]) -> OpenSet:
    """Healthy test cases stand against both, as none of them was trained on."""
    asked = [row for row in known if row.question.name == OPEN_SET_QUESTION]
    healthy = [row for row in asked if _is_healthy(row)]
    return OpenSet(known=_open_set_part(asked), unknown=_open_set_part([*unseen, *healthy]))


def _open_set_part(rows: Sequence[AnsweredItem]) -> OpenSetPart:
    answers, truths, groups = _texts(rows)
    healthy = sum(map(_is_healthy, rows))
    return OpenSetPart(
        unhealthy=len(rows) - healthy,
        healthy=healthy,
        classes=class_metrics(OPEN_SET_QUESTION, answers, truths, groups),
        confusion=confusion(OPEN_SET_QUESTION, answers, truths),
    )


def _is_healthy(row: AnsweredItem) -> bool:
    return classify(OPEN_SET_QUESTION, row.truth) == NORMAL[OPEN_SET_QUESTION]


def _notes(
    run: VqaRun, corpus: Corpus, rows: Sequence[AnsweredItem], majority: Mapping[str, str]
) -> list[str]:
    notes = [
        f"{len(patients)} patients occur in both {first} and {second}: results are too good."
        for (first, second), patients in corpus.patient_overlap().items()
    ]
    if not corpus.patients_known:
        notes.append("Patients are unknown: intervals resample single triples and are too narrow.")
    outside = [r for r in rows if r.question.closed and classify(r.question.name, r.answer) is None]
    if outside:
        notes.append(
            f"{len(outside)} closed answers are outside the vocabulary and count as wrong, such as "
            f"{outside[0].answer[:60]!r}."
        )
    notes += _contradictions(rows)
    free = {row.question.key for row in rows if row.question.name == FREE}
    if free:
        notes.append(
            f"{len(free)} questions are none of the seven: each has metrics of its own, the "
            "summary of open questions leaves them out."
        )
    if run.data.exclude_unseen and not any(is_unseen(item.category) for item in corpus.items):
        notes.append(f"No table of the open set: {no_unseen(corpus)}.")
    if run.config.reference_decoding:
        notes.append("Decoded as the released code does: greedily, without the first word asked.")
    if not majority:
        notes.append("The corpus has no training split: there is no majority answer beside.")
    return notes


def _contradictions(rows: Sequence[AnsweredItem]) -> list[str]:
    """A note where answers to the normal question contradict the detector."""
    asked = [row for row in rows if row.question.name == OPEN_SET_QUESTION]
    known = [row for row in asked if row.contradicts is not None]
    against = [row.item.flagged for row in known if row.contradicts]
    if not against:
        return []
    return [
        f"{len(against)} of {len(known)} answers to {OPEN_SET_QUESTION} contradict the detector: "
        f"{against.count(True)} say normal of a flagged image, {against.count(False)} abnormal of "
        "one that is not flagged."
    ]


def _panels(run: VqaRun, rows: Sequence[AnsweredItem]) -> tuple[VqaPanel, ...]:
    """Triples with every closed answer right, and with some wrong; kinds of anomaly take turns."""
    triples: dict[object, list[AnsweredItem]] = {}
    for row in rows:
        triples.setdefault(row.item.pictures, []).append(row)
    kinds: dict[str, dict[str, list[list[AnsweredItem]]]] = {kind: {} for kind in PANEL_KINDS}
    for some in triples.values():
        kind = "wrong" if any(row.correct is False for row in some) else "right"
        kinds[kind].setdefault(some[0].item.category, []).append(some)
    return tuple(
        _panel(run, kind, some)
        for kind, by_category in kinds.items()
        for some in _taking_turns(list(by_category.values()))[:PANELS_OF_A_KIND]
    )


def _taking_turns(lists: Sequence[Sequence[list[AnsweredItem]]]) -> list[list[AnsweredItem]]:
    """The first of each list, then the second of each that has one, and so on."""
    longest = max(map(len, lists), default=0)
    return [each[turn] for turn in range(longest) for each in lists if turn < len(each)]


def _panel(run: VqaRun, kind: str, rows: Sequence[AnsweredItem]) -> VqaPanel:
    image, anomaly_map, reconstruction = (
        as_bytes(read_image(path, run.data.window)) for path in rows[0].item.pictures
    )
    return VqaPanel(kind, (image, anomaly_map, reconstruction), tuple(rows))


def _count_words(known: Sequence[VqaItem], unseen: Sequence[VqaItem]) -> str:
    words = f"test: {len(known)} questions about {len(by_triple(known))} triples"
    patients = {item.patient for item in known}
    words += "" if None in patients else f" of {len(patients)} patients"
    if unseen:
        words += f"; {len(unseen)} cases of kinds that were not trained on"
    return words
