"""What an owner wrote into a card stays when the set is published again; what the library wrote is written anew."""

import pytest
from loopback import Loopback, loopback
from publications import clean_set, key, publish

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.publishing.manifest import verify
from unlearnable_transforms.publishing.own import BEGIN, END, OwnPart, generated_digest, join_card, own_part, split_card

CARD = join_card({"license": "mit", "tags": ["noai"]}, OwnPart("# A\n\nmine", "## Thanks"), "made")


@pytest.fixture
def hub(monkeypatch):
    with loopback(monkeypatch) as server:
        yield server


def put(hub: Loopback, path: str, text: str) -> None:
    """A commit by hand, on the Hub's page."""
    repo = hub.repos["user/name"]
    repo.commit("main", {**repo.files(), path: text.encode()}, repo.refs["main"])


def card_on(hub: Loopback) -> str:
    return hub.repos["user/name"].files()["README.md"].decode()


def test_a_card_in_parts_and_back():
    assert own_part(CARD, published=True) == OwnPart("# A\n\nmine", "## Thanks", {"license": "mit", "tags": ["noai"]})
    assert split_card("no metadata") == ({}, "no metadata")
    assert own_part("---\nlicense: mit\n---\n# Old\n", published=False) == OwnPart("# Old", "", {"license": "mit"})
    assert own_part("---\nlicense: mit\n---\n# Old\n", published=True) == OwnPart("", "", {"license": "mit"})
    assert own_part("", published=False) == OwnPart()
    assert own_part("---\nviewer: true\nconfigs: []\n---\n", published=False) == OwnPart()


def test_the_digest_is_that_of_the_generated_part():
    same = [CARD, CARD.replace("mine", "other"), CARD.replace("- noai", "- x"), CARD.replace("\n", "\r\n")]
    assert len({generated_digest(card) for card in same}) == 1
    others = [CARD.replace("made", "Made"), CARD.replace("license", "viewer")]
    assert len({generated_digest(card) for card in [CARD, *others]}) == 3
    broken = [CARD.replace(BEGIN, ""), CARD.replace(END, ""), "---\na: [\n---\n", "", "---\n- 1\n---\n"]
    assert {generated_digest(card) for card in broken} == {None}


def test_published_again_the_own_text_stays(hub):
    poison = ut.CUDAPoison(key=key())
    data = ut.protect(clean_set(), poison)
    options = {"poison": poison, "originals_public": False}
    ut.publish(data, "user/name", description="Ants.", license="mit", contact="Ann", **options)
    edited = (
        card_on(hub).replace("Ants.", "Ants and [bees](https://example.org).").replace("- noai", "- noai\n- insects")
    )
    put(hub, "README.md", edited.replace("license: mit", "license: mit\nlanguage:\n- en") + "\n## Thanks\n\nto Ann\n")
    before = card_on(hub)
    done = ut.publish(data, "user/name", **options)
    assert "the card keeps what was written above and below its generated part" in done.notes
    assert not any("edited by hand" in note for note in done.notes)
    after = card_on(hub)
    assert split_card(after)[1] == split_card(before)[1].rstrip() + "\n"
    metadata = split_card(after)[0]
    assert (metadata["license"], metadata["language"]) == ("mit", ["en"])
    assert metadata["tags"] == ["unlearnable-examples", "protected", "noai", "insects"]
    assert verify("user/name", key()).exit_code == 0
    ut.publish(data, "user/name", description="New words.", license="cc0-1.0", viewer=False, **options)
    assert "# name\n\nNew words.\n\n<!-- Begin" in card_on(hub)
    assert "bees" not in card_on(hub)
    assert "to Ann" in card_on(hub)
    assert split_card(card_on(hub))[0]["license"] == "cc0-1.0"
    assert split_card(card_on(hub))[0]["viewer"] is False


def test_a_new_branch_keeps_the_text_of_main(hub):
    poison = ut.CUDAPoison(key=key())
    data = ut.protect(clean_set(), poison)
    ut.publish(data, "user/name", poison=poison, originals_public=False, description="Ants.")
    put(hub, "README.md", card_on(hub).replace("Ants.", "Ants, by hand."))
    ut.publish(data, "user/name", poison=poison, originals_public=False, revision="v2")
    assert "Ants, by hand." in hub.repos["user/name"].files("v2")["README.md"].decode()


def test_an_edit_inside_the_generated_part_is_told_and_undone(hub):
    poison = ut.CUDAPoison(key=key())
    data = ut.protect(clean_set(), poison)
    ut.publish(data, "user/name", poison=poison, originals_public=False)
    good = card_on(hub)
    put(hub, "README.md", good.replace("12 images in train", "99 images in train"))
    done = ut.publish(data, "user/name", poison=poison, originals_public=False)
    assert any("edited by hand: it was written anew" in note for note in done.notes)
    assert card_on(hub) == good


def test_a_card_that_was_there_before_is_kept_whole(hub, tmp_path):
    poison = ut.CUDAPoison(key=key())
    data = ut.protect(clean_set(), poison)
    from huggingface_hub import HfApi

    HfApi().create_repo("user/name", repo_type="dataset")
    put(hub, "README.md", "---\nlicense: mit\n---\n# Ants of Kent\n\nBy hand.\n")
    ut.publish(data, "user/name", poison=poison, originals_public=False)
    assert split_card(card_on(hub))[1].startswith("\n# Ants of Kent\n\nBy hand.\n\n<!-- Begin")
    put(hub, "README.md", "---\nlicense: [\n---\n")
    with pytest.raises(ValueError, match="no YAML mapping: correct it"):
        ut.publish(data, "user/name", poison=poison, originals_public=False)


def test_for_a_folder_the_earlier_card_is_named(tmp_path):
    data = ut.protect(clean_set(), ut.CUDAPoison(key=key()))
    first = publish(data, tmp_path / "first", description="Ants.").folder
    (first / "README.md").write_text((first / "README.md").read_text().replace("Ants.", "Ants, by hand."))
    publish(data, tmp_path / "second", card=first / "README.md")
    assert "Ants, by hand." in (tmp_path / "second/README.md").read_text()
    assert verify(tmp_path / "second", key()).exit_code == 0


def test_consent_viewer_and_picture_by_command(tmp_path):
    from publications import protected_folder

    folder = protected_folder(tmp_path)
    arguments = ["publish", str(folder), "user/name", "--key", str(tmp_path / "my.key"), "--originals-public", "no"]
    assert main([*arguments, "--folder", str(tmp_path / "a"), "--gated", "auto", "--no-viewer", "--no-picture"]) == 0
    metadata, text = split_card((tmp_path / "a/README.md").read_text())
    assert metadata["viewer"] is False
    assert metadata["extra_gated_fields"] == {
        "I will not train models on these images, and will not mine them": "checkbox"
    }
    assert {name for name in metadata if name.startswith("extra_gated")} == {
        "extra_gated_heading", "extra_gated_prompt", "extra_gated_fields", "extra_gated_button_content"
    }  # fmt: skip
    assert "![" not in text
    assert not list((tmp_path / "a").glob(".card.*"))
    originals = ["--show-originals", "--original", str(tmp_path / "photos")]
    assert main([*arguments, "--folder", str(tmp_path / "b"), *originals, "--no-opt-out"]) == 0
    metadata, text = split_card((tmp_path / "b/README.md").read_text())
    assert not [name for name in metadata if name.startswith(("extra_gated", "viewer"))]
    assert "The picture above shows originals, because the publisher chose to." in text
    assert verify(tmp_path / "b").exit_code == 0
