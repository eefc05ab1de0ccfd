"""Dialogue: align a projector on captions, train it on conversations, answer questions (paper, dialogue)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.evaluation.heads.training import FeatureSource, ImageBatchSource
from lcl_core.evaluation.results import PredictionFile, loss_curve
from lcl_core.evaluation.tasks.base import EvalContext, EvaluationData, SplitImages, Task
from lcl_core.evaluation.tasks.captioning import CaptionExample, caption_examples
from lcl_core.evaluation.vlm.chat_format import caption_tokens, conversation_tokens
from lcl_core.evaluation.vlm.instruction_data import FIELD, DialoguePlan, QuestionSet, plan_dialogue
from lcl_core.evaluation.vlm.language_model import LanguageModelFiles, resolve_language_model
from lcl_core.evaluation.vlm.model import VisionLanguageModel, VLMExample, build_vlm, save_vlm
from lcl_core.evaluation.vlm.questions import BenchmarkQuestion
from lcl_core.specs.evaluate import DialogueSpec, StageSpec, Transfer


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
    def plan(cls, data: EvaluationData) -> Self:
        spec = data.spec
        own = spec.dialogue
        files = resolve_language_model(own.language_model, field=f"{FIELD}.language_model")
        asks = own.derived is not None
        train = data.train_images(own, field=FIELD, tested=asks)
        if not caption_examples(train.images, None):
            raise UserError(
                f"split {own.train_split!r} has no captions to learn", code="no_data",
                field=f"{FIELD}.train_split",
            )  # fmt: skip
        tests = data.test_images() if asks else {}
        return cls(own, spec.protocols(own), files, train, plan_dialogue(spec, train, tests))

    @property
    def needs_patch_features(self) -> bool:
        return True  # stage one uses frozen features in both protocols

    @property
    def captions(self) -> list[CaptionExample]:
        """The examples of stage one."""
        return caption_examples(self.train.images, None)

    def run(self, context: EvalContext) -> None:
        if self.data.entries:
            write_json_atomically(context.artifacts / "derived_instructions.json", self.data.entries)
        for transfer in self.transfer:
            vlm = self._train(context, transfer)
            if context.encoder.role == "trained":
                folder = context.artifacts / "bridges" / f"{FIELD}-{transfer}"
                save_vlm(folder, vlm, context.encoder.model, self.spec.language_model)
            for asked in self.data.questions:
                context.enter(f"{transfer} transfer answers {asked.benchmark}")
                answers = self._answer(context, vlm, asked)
                file = PredictionFile(
                    self.name, asked.source.split, f"derived {asked.benchmark}", transfer, "answers",
                    context.encoder.role, facts={"benchmark": asked.benchmark},
                )  # fmt: skip
                context.predictions.add(file, [answer.to_dict() for answer in answers])

    def _train(self, context: EvalContext, transfer: Transfer) -> VisionLanguageModel:
        """Stage one trains the projector alone on captions, in both protocols; stage two trains on conversations.

        Conversations without an image are used only where the language model is trained.
        """
        spec, language, conversations = self.spec, self.spec.language_model, self.data.conversations
        vlm = build_vlm(
            context, transfer, self.files, language,
            augmentation=spec.instruct.augmentation, precision=spec.instruct.precision, field=f"{FIELD}.language_model",
        )  # fmt: skip
        model, max_tokens = vlm.llava.language, language.max_tokens

        def train_stage(
            vlm: VisionLanguageModel, batches: ImageBatchSource, examples: Sequence[VLMExample], own: StageSpec,
            stage: str,
        ) -> None:  # fmt: skip
            context.enter(f"{transfer} transfer to dialogue, {stage}")
            losses = vlm.train(
                batches, examples, own, seed=context.spec.seed, field=f"{FIELD}.{stage}",
                heartbeat=context.progress.heartbeat,
            )  # fmt: skip
            labels = {"task": FIELD, "transfer": transfer, "encoder": context.encoder.role, "variant": stage}
            context.curves.append({**labels, **loss_curve(losses)})

        frozen = FeatureSource(context, "frozen", spec.align.augmentation)
        aligned = [VLMExample(caption_tokens(model, "", text).cut(max_tokens), row) for row, text in self.captions]
        batches = frozen.batches(self.train)
        train_stage(replace(vlm, source=frozen, language_lr=None), batches, aligned, spec.align, "align")
        instructed = [
            VLMExample(conversation_tokens(model, each.turns, language.layout).cut(max_tokens), row)
            for each, row in zip(conversations.conversations, conversations.rows, strict=True)
            if row is not None or vlm.language_lr is not None
        ]
        batches = vlm.source.batches(conversations.source)
        train_stage(vlm, batches, instructed, spec.instruct, "instruct")
        return vlm

    def _answer(self, context: EvalContext, vlm: VisionLanguageModel, asked: QuestionSet) -> list[BenchmarkQuestion]:
        """The questions with answers."""
        layout = self.spec.language_model.layout
        answers = vlm.generate(
            vlm.source.batches(asked.source), asked.rows,
            [conversation_tokens(vlm.llava.language, [turn], layout) for turn in asked.turns], self.spec.decoding,
            seed=context.spec.seed, heartbeat=context.progress.heartbeat,
        )  # fmt: skip
        return [replace(question, answer=answer) for question, answer in zip(asked.questions, answers, strict=True)]
