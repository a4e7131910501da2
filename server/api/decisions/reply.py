"""Answers of /decisions: probabilities of labels as those of answers. Knows log-probabilities; nothing of workers."""

from collections.abc import Sequence
from math import exp
from typing import assert_never
from uuid import uuid4

from server.api.decisions.prompt import EncodedQuestion, Question
from server.api.decisions.schemas import (
    ChoiceAnswer,
    ChoiceQuestion,
    Decision,
    DecisionRequest,
    Predicate,
    PredicateAnswer,
    ScoreAnswer,
    ScoreQuestion,
)
from server.api.responses.reply import response_usage
from server.generation.generation import Choice
from server.wire.usage import Usage


class DecisionReply:
    """All answers to one request.

    label_ids: the tokens whose log-probabilities come with every choice, in their order
    """

    def __init__(self, body: DecisionRequest, model_name: str, asked: Sequence[EncodedQuestion]) -> None:
        self.reply_id = f"decision-{uuid4().hex}"
        self.num_choices = len(asked)
        self.label_ids = tuple(dict.fromkeys(token_id for each in asked for ids in each.labels for token_id in ids))
        self._questions, self._asked, self._model_name = body.questions, asked, model_name

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Decision:
        """The answers to all questions."""
        return {
            "model": self._model_name,
            "answers": [
                answer(question, self._probabilities(asked, choice))
                for question, asked, choice in zip(self._questions, self._asked, choices, strict=True)
            ],
            "usage": response_usage(usage),
        }

    def _probabilities(self, asked: EncodedQuestion, choice: Choice) -> list[float]:
        """Of each label, among the labels."""
        logprobs = dict(zip(self.label_ids, (each.logprob for each in choice.tokens[0].likely), strict=True))
        best = max(logprobs[token_id] for ids in asked.labels for token_id in ids)
        weights = [sum(exp(logprobs[token_id] - best) for token_id in ids) for ids in asked.labels]
        return [weight / sum(weights) for weight in weights]


def answer(question: Question, probabilities: Sequence[float]) -> PredicateAnswer | ChoiceAnswer | ScoreAnswer:
    """One answer. probabilities: of yes and no, of the choices, or of the levels"""
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    match question:
        case Predicate():
            return {"type": "predicate", "name": question.name, "probability": probabilities[0]}
        case ChoiceQuestion():
            pairs = zip(question.choices, probabilities, strict=True)
            return {
                "type": "choice",
                "name": question.name,
                "choice": question.choices[best].value,
                "confidence": probabilities[best],
                "probabilities": [{"value": choice.value, "probability": each} for choice, each in pairs],
            }
        case ScoreQuestion():
            levels = enumerate(zip(question.levels, probabilities, strict=True))
            return {
                "type": "score",
                "name": question.name,
                "score": sum(value * each for value, each in enumerate(probabilities)),
                "confidence": probabilities[best],
                "probabilities": [
                    {"value": value, "label": level.label, "probability": each} for value, (level, each) in levels
                ],
            }
        case _:
            assert_never(question)
