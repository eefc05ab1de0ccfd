"""Dialogue: align a projector on captions, train it on conversations, answer questions (paper, dialogue)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.data import Corpus
from lcl_core.evaluation.benchmarks.questions import BenchmarkQuestion
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.training import FEATURE_SOURCES, ImageBatchSource, count_examples
from lcl_core.evaluation.results import PredictionFile, loss_curve
from lcl_core.evaluation.tasks.base import DatasetResolver, EvalContext, SplitImages, Task
from lcl_core.evaluation.tasks.captioning import CaptionExample, caption_examples
from lcl_core.evaluation.vlm.chat_format import TokenSequence, caption_tokens, conversation_tokens
from lcl_core.evaluation.vlm.instruction_data import FIELD, DialoguePlan, QuestionSet, plan_dialogue
from lcl_core.evaluation.vlm.language_model import LanguageModelFiles, resolve_language_model
from lcl_core.evaluation.vlm.model import VisionLanguageModel, VLMExample, build_vlm, save_vlm
from lcl_core.specs.evaluate import DialogueSpec, EvaluateSpec, StageSpec, Transfer

# rough costs in embedded images: training on a caption and on a conversation once, an answer
ALIGN_COST, INSTRUCT_COST, ANSWER_COST = 20.0, 60.0, 20.0


@dataclass(frozen=True)
class Dialogue(Task):
    """Two training stages and then questions, frozen or full.

    Attributes:
        train: captioned images of stage one.
        data: conversations of stage two, and questions.
    """

    name = FIELD

    spec: DialogueSpec
    transfer: tuple[Transfer, ...]
    files: LanguageModelFiles
    train: SplitImages
    data: DialoguePlan

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, resolver: DatasetResolver) -> Self:
        own = spec.dialogue
        files = resolve_language_model(own.language_model, field=f"{FIELD}.language_model")
        asks = own.derived is not None
        train = resolver.train_images(spec, own, corpus, field=FIELD, tested=asks)
        if not caption_examples(train.images, None):
            raise UserError(
                f"split {own.train_split!r} has no captions to learn", code="nothing_to_learn",
                field=f"{FIELD}.train_split",
            )  # fmt: skip
        tests = resolver.test_images(spec, corpus) if asks else {}
        return cls(own, spec.protocols(own), files, train, plan_dialogue(spec, train, tests))

    @property
    def needs_patch_features(self) -> bool:
        return True  # stage one uses frozen features in both protocols

    @property
    def captions(self) -> list[CaptionExample]:
        """The examples of stage one."""
        return caption_examples(self.train.images, None)

    def cost(self) -> float:
        conversations, questions = self.data.conversations, self.data.questions
        images = len(self.train) + len(conversations.source) + sum(len(each.source) for each in questions)
        training = ALIGN_COST * count_examples(self.spec.align, len(self.captions))
        training += INSTRUCT_COST * count_examples(self.spec.instruct, len(conversations.conversations))
        answers = ANSWER_COST * sum(len(each.questions) for each in questions)
        return len(self.transfer) * (images + training + answers)

    def run(self, context: EvalContext, encoder: EvaluatedEncoder) -> None:
        if self.data.entries:
            write_json_atomically(context.artifacts / "derived_instructions.json", self.data.entries)
        for transfer in self.transfer:
            vlm = self._train(context, encoder, transfer)
            if encoder.role == "trained":
                folder = context.artifacts / "bridges" / f"{FIELD}-{transfer}"
                save_vlm(folder, vlm, encoder.model, self.spec.language_model)
            for asked in self.data.questions:
                context.progress.enter(f"{encoder.role} encoder: {transfer} transfer answers {asked.benchmark}")
                answers = self._answer(context, vlm, asked)
                file = PredictionFile(
                    self.name, asked.source.split, f"derived {asked.benchmark}", transfer, "answers", encoder.role,
                    facts={"benchmark": asked.benchmark},
                )  # fmt: skip
                context.predictions.add(file, [answer.to_dict() for answer in answers])

    def _train(self, context: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer) -> VisionLanguageModel:
        """Stage one trains the projector alone on captions, in both protocols; stage two trains on conversations.

        Conversations without an image are used only where the language model is trained.
        """
        spec, language, conversations = self.spec, self.spec.language_model, self.data.conversations
        vlm = build_vlm(
            context, encoder, transfer, self.files, language,
            augmentation=spec.instruct.augmentation, precision=spec.instruct.precision, field=f"{FIELD}.language_model",
        )  # fmt: skip
        model, max_tokens = vlm.llava.language, language.max_tokens

        def train_stage(
            vlm: VisionLanguageModel, batches: ImageBatchSource, examples: Sequence[VLMExample], own: StageSpec,
            stage: str, cost: float,
        ) -> None:  # fmt: skip
            context.progress.enter(f"{encoder.role} encoder: {transfer} transfer to dialogue, {stage}")
            losses = vlm.train(
                batches, examples, own, seed=context.spec.seed, field=f"{FIELD}.{stage}",
                on_step=lambda count: context.progress.add(cost * count),
            )  # fmt: skip
            labels = {"task": FIELD, "transfer": transfer, "encoder": encoder.role, "variant": stage}
            context.curves.add({**labels, **loss_curve(losses)})

        frozen = FEATURE_SOURCES["frozen"](context, encoder, spec.align.augmentation)
        aligned = [VLMExample(caption_tokens(model, "", text).cut(max_tokens), row) for row, text in self.captions]
        batches = frozen.batches(self.train)
        train_stage(replace(vlm, source=frozen, language_lr=None), batches, aligned, spec.align, "align", ALIGN_COST)
        instructed = [
            VLMExample(conversation_tokens(model, each.turns, language.layout).cut(max_tokens), row)
            for each, row in zip(conversations.conversations, conversations.rows, strict=True)
            if row is not None or vlm.language_lr is not None
        ]
        batches = vlm.source.batches(conversations.source)
        train_stage(vlm, batches, instructed, spec.instruct.for_protocol(transfer), "instruct", INSTRUCT_COST)
        return vlm

    def _answer(self, context: EvalContext, vlm: VisionLanguageModel, asked: QuestionSet) -> list[BenchmarkQuestion]:
        """The questions with answers; equal questions about one image are answered once."""
        layout = self.spec.language_model.layout
        prompts = [conversation_tokens(vlm.llava.language, [turn], layout) for turn in asked.turns]
        keys = [(int(row), prompt) for row, prompt in zip(asked.rows, prompts, strict=True)]
        index: dict[tuple[int, TokenSequence], int] = {}
        for key in keys:
            index.setdefault(key, len(index))
        cost = ANSWER_COST * len(keys) / len(index)
        answers = vlm.generate(
            vlm.source.batches(asked.source), np.array([row for row, _ in index]),
            [prompt for _, prompt in index], self.spec.decoding, seed=context.spec.seed,
            on_batch=lambda count: context.progress.add(cost * count),
        )  # fmt: skip
        return [
            replace(question, answer=answers[index[key]]) for question, key in zip(asked.questions, keys, strict=True)
        ]
