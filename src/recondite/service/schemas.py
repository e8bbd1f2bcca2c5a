"""Request and response schemas, which the service documents and the client reads."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Word = Literal["inlier", "outlier", "invalid"]
_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mNkEIAAJgGKGACOGAQAwSeVywAAAABJRU5ErkJggg=="
_ID = "0f8fad5bd9cb469fa16570867728950e"
_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class ImageIn(BaseModel):
    """One image in a JSON request."""

    model_config = ConfigDict(extra="forbid")

    data: str = Field(description="an image file, in base64", examples=[_PNG])
    id: str = Field("", description="a name of yours for it", max_length=200)
    label: str | None = Field(
        None, description="what your classifier says; the guard lets it stand or not", max_length=200
    )
    confidence: float | None = Field(None, gt=0, le=1, description="your classifier's largest softmax probability")


class ImagesIn(BaseModel):
    """A JSON request; all else is said in the address."""

    model_config = ConfigDict(extra="forbid")

    images: list[ImageIn] = Field(min_length=1, examples=[[{"id": "part 17", "data": _PNG}]])


class Reason(BaseModel):
    """How unusual one statistic of an image is."""

    statistic: str = Field(description="what it is, in words")
    z: float = Field(description="standard deviations from the middle of normal images")


class Verdict(BaseModel):
    """The verdict on one image."""

    id: str = Field(description="the name the client gave, or the image's place in the request")
    verdict: Word = Field(description="invalid: the image could not be read, and says why; never an inlier")
    is_outlier: bool = Field(description="true for invalid images too")
    instance_score: float | None = Field(description="higher is more anomalous; null for invalid images")
    p_value: float | None = Field(description="how often a normal image scores this high, in (0, 1]")
    threshold: float | None = Field(description="a higher score is an outlier; null where groups have their own")
    alpha: float = Field(description="the false-alarm rate on normal images")
    error: str | None = Field(description="why the image is invalid")
    event: str = Field(description="under which the verdict is written down; labels attach to it")
    sha256: str = Field(description="of the image as it came")
    heat_map: str | None = Field(None, description="where the image is odd: a PNG in base64, if asked for")
    reconstruction: str | None = Field(None, description="the image rebuilt: a PNG in base64, if asked for")
    words: str | None = Field(None, description="the verdict in words, if asked for")
    why: list[Reason] | None = Field(None, description="statistics, the most unusual first, if asked for")
    guard: "GuardOut | None" = Field(
        None, description="a label, by the guard's classifier or as sent with the image, or an abstention"
    )


class GuardOut(BaseModel):
    """The label of an image, or an abstention."""

    label: str | None = Field(description="the label; null for an abstention")
    reason: str | None = Field(description="why there is no label; null where there is one")
    abstention: Literal["foreign", "unsure", "invalid"] | None = Field(description="its kind; null where there is none")
    predicted: str | None = Field(description="the label that the classifier alone would give")
    confidence: float | None = Field(description="the classifier's largest softmax probability; null if unknown")


class Answer(BaseModel):
    """Verdicts on the images of one request, in their order."""

    request_id: str
    screen: str
    version: str
    verdicts: list[Verdict]
    remarks: list[str] = Field(
        [], description="how most of the images differ in size or colour from those that the screen learnt from"
    )


class EventOut(BaseModel):
    """A verdict as it was written down."""

    number: int = Field(description="counts up; pages are asked for by it")
    id: str
    time: float = Field(description="seconds since 1970")
    request_id: str
    screen: str
    version: str
    name: str
    group: str
    sha256: str
    kept: bool = Field(description="whether the image was kept when it came")
    verdict: Word
    instance_score: float | None
    p_value: float | None
    threshold: float | None
    alpha: float
    error: str | None
    statistics: dict[str, float]
    label: Literal["inlier", "outlier", "skip"] | None = Field(description="the last that a person gave")


class Events(BaseModel):
    """A page of events, newest first."""

    events: list[EventOut]
    before: int | None = Field(description="ask for this to get the next page; null on the last one")


class LabelIn(BaseModel):
    """What a person says about an event."""

    model_config = ConfigDict(extra="forbid")

    label: Literal["inlier", "outlier", "skip", "none"] = Field(description="none: takes back what was said before")
    note: str = Field("", max_length=2000)


class ScreenOut(BaseModel):
    """One screen and what it was made of."""

    name: str
    version: str = Field(description="the default one")
    versions: list[str]
    fingerprint: str = Field(description="SHA-256 of all that scores and p-values depend on")
    detector: str
    shape: list[int] = Field(description="(C, H, W) that images are brought to, or (D,) of vectors")
    score: str
    alpha: float
    threshold: float | None
    false_alarm_interval: list[float] = Field(
        min_length=2, max_length=2, description="95 % interval of the true false-alarm rate"
    )
    promise: str = Field(description="what its flags promise, in words, or that they promise nothing")
    calibration_images: int
    groups: list[str] | None
    smallest_alpha: float | None = Field(description="the calibration allows no smaller one; null: none at all")
    classes: list[str] | None = Field(description="names; of a guard that has its own classifier, null for others")


class MovedOut(BaseModel):
    """How one statistic of recent images compares with the calibration images."""

    statistic: str
    shift: float = Field(description="of the median, in standard deviations")
    p_value: float
    moved: bool


class DriftOut(BaseModel):
    """Whether the images still are like the calibration images."""

    screen: str
    version: str
    seen: int = Field(description="images so far")
    martingale: float = Field(description="evidence of drift; 1 at first")
    threshold: float = Field(description="at which there is an alarm")
    alarm: bool
    alarm_at: int | None = Field(description="the number of images after which there was an alarm")
    began: int | None = Field(description="the number of images after which the change is thought to have begun")
    moved: list[MovedOut]


class V2Problem(BaseModel):
    """An error of the Open Inference Protocol."""

    error: str


class Problem(BaseModel):
    """Why there is no answer."""

    code: str
    message: str
    request_id: str


class ProblemOut(BaseModel):
    """An error."""

    error: Problem


ANSWER_EXAMPLE = {
    "request_id": "5a1f0c9e2b7d4c6f",
    "screen": "parts",
    "version": "3",
    "verdicts": [
        {
            "id": "part 17",
            "verdict": "outlier",
            "is_outlier": True,
            "instance_score": 4.31,
            "p_value": 0.0036,
            "threshold": 3.28,
            "alpha": 0.05,
            "error": None,
            "event": _ID,
            "sha256": _HASH,
            "heat_map": None,
            "reconstruction": None,
            "words": None,
            "why": None,
        }
    ],
    "remarks": [],
}
EXAMPLE_PNG = _PNG
