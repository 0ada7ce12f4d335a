"""`verify` looks at a published folder alone: descriptions, consent, packets and images have to fit each other."""

import json

import pytest
from conftest import decode, encode
from folders import save_key
from planted_after import AFTER, TABLE, published, relist
from publications import clean_set, key, pictures, protected_folder, publish

from unlearnable_transforms.checks.leaks import name_places
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.publishing.manifest import verify
from unlearnable_transforms.publishing.own import BEGIN, END


@pytest.mark.parametrize("name", AFTER)
def test_what_is_planted_afterwards_is_seen(tmp_path, name):
    check, make = AFTER[name]
    folder = published(tmp_path / "out")
    make(folder)
    relist(folder)
    verdict = verify(folder, key())
    assert (verdict.changed, verdict.missing, verdict.added, verdict.sealed) == ([], [], [], True)
    assert check in [leak.check for leak in verdict.leaks], verdict.lines()
    assert verdict.exit_code == 1


def test_what_was_published_is_whole(tmp_path, capsys):
    folder = published(tmp_path / "out")
    relist(folder)
    assert main(["verify", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "12 images looked at: nothing in the set gives anything away" in out
    assert "training is reserved in README.md (consent), protection.json (CAWG), croissant.json (ODRL)\n" in out


def test_packets_of_all_images_are_counted(tmp_path, capsys):
    source = protected_folder(tmp_path, "--opt-out", "ai-training", "--creator", "Ann")
    folder = publish(source, tmp_path / "out").folder
    assert verify(folder).seen.opt_outs[-1] == "6 of 6 images"
    card = (folder / "README.md").read_text()
    assert "and an XMP packet in 6 images (PLUS, IPTC)" in card
    assert "without metadata but the rights in 6 images" in card


def test_packets_inside_parquet_are_seen_too(tmp_path):
    clean_set().to_parquet(str(tmp_path / "train.parquet"))
    save_key(tmp_path / "my.key")
    arguments = ["--key", str(tmp_path / "my.key"), "--workers", "1", "--opt-out", "all"]
    assert main(["protect", str(tmp_path / "train.parquet"), str(tmp_path / "protected"), *arguments]) == 0
    folder = publish(tmp_path / "protected", tmp_path / "out").folder
    assert verify(folder).seen.opt_outs[-1] == "12 of 12 images"
    assert verify(folder).exit_code == 0


def test_class_numbers_of_an_album_that_grew(tmp_path):
    """The second class comes first by its name, and has the later number."""
    for name, number in (("bee", 0), ("ant", 1)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for row, image in enumerate(pictures(4, first=10 * number)):
            (tmp_path / "photos" / name / f"{row}.png").write_bytes(encode(image))
        if not number:
            save_key(tmp_path / "my.key")
        arguments = ["--key", str(tmp_path / "my.key"), "--workers", "1"]
        assert main(["protect", str(tmp_path / "photos"), str(tmp_path / "protected"), *arguments]) == 0
    folder = publish(tmp_path / "protected", tmp_path / "out").folder
    assert json.loads((folder / "protection.json").read_text())["classes"] == ["bee", "ant"]
    assert verify(folder).leaks == []
    image = folder / "ant" / "0.png"
    image.write_bytes(encode(decode(image.read_bytes()), compress_level=9))
    assert verify(folder).same_pictures is True


def test_a_card_that_was_edited_by_hand_is_no_changed_data(tmp_path, capsys):
    folder = published(tmp_path / "out")
    card = (folder / "README.md").read_text()
    edits = {
        "above": card.replace("Ants and bees.", "Ants, bees and cats."),
        "below": card + "\n## Thanks\n\nTo Ann, see https://example.org/ann\n",
        "tags": card.replace("- noai\n", "- noai\n- insects\n"),
        "line ends": card.replace("\n", "\r\n"),
    }
    for name, text in edits.items():
        (folder / "README.md").write_text(text, newline="")
        verdict = verify(folder, key())
        assert (verdict.seen.edited, verdict.changed, verdict.exit_code) == (True, [], 0), name
    assert "README.md was edited by hand, outside of what the library wrote" in "\n".join(verdict.lines())
    for changed in (card.replace("12 images in train", "99 images in train"), card.replace(BEGIN, ""), "---\n[\n---\n"):
        (folder / "README.md").write_text(changed)
        verdict = verify(folder, key())
        assert (verdict.seen.edited, verdict.changed, verdict.exit_code) == (False, ["README.md"], 1)
        assert [leak.check for leak in verdict.leaks] == ["description"]
    assert END in card


def test_the_card_can_be_edited_and_the_data_changed(tmp_path):
    folder = published(tmp_path / "out")
    with (folder / "README.md").open("a") as file:
        file.write("more")
    (folder / TABLE).write_bytes(b"PAR1")
    verdict = verify(folder)
    assert (verdict.changed, verdict.seen.edited, verdict.seen.images) == ([TABLE], True, None)


def test_a_set_of_an_earlier_version_is_still_whole(tmp_path):
    """Without Croissant, card's digest and picture."""
    folder = published(tmp_path / "out")
    manifest = json.loads((folder / "protection.json").read_text())
    for name in ("croissant.json", ".card.webp"):
        (folder / name).unlink()
        del manifest["files"][name]
    for name in ("card", "picture", "originals_public", "kept_columns"):
        del manifest[name]
    (folder / "protection.json").write_text(json.dumps(manifest))
    relist(folder)
    assert verify(folder, key()).exit_code == 0


def test_a_leak_is_told_with_its_place(tmp_path):
    folder = published(tmp_path / "out")
    AFTER["a second packet of XMP in an image of a table"][1](folder)
    relist(folder)
    places = [name_places(leak.places) for leak in verify(folder).leaks if leak.check == "metadata"]
    assert places == ["train row 0"]
