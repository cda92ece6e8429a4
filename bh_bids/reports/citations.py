"""The works that a methods text can cite, once, for BibTeX and for reading."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """One work; ``authors`` as BibTeX wants them, *Family, Given and Family, Given*."""

    kind: str
    authors: str
    title: str
    year: int
    doi: str
    venue: str = ""
    details: tuple = ()  # further BibTeX fields, pairs

    @property
    def url(self):
        """The work's permanent address."""
        return f"https://doi.org/{self.doi}"

    @property
    def short(self):
        """*Family et al., year*, as in running text."""
        families = [name.split(",")[0].strip("{} ") for name in self.authors.split(" and ")]
        if len(families) == 2 and families[1] != "others":
            names = " and ".join(families)
        else:
            names = families[0] + (" et al." if len(families) > 1 else "")
        return f"{names}, {self.year}"

    @property
    def plain(self):
        """The full reference as one line of text."""
        names = self.authors.replace("{", "").replace("}", "").split(" and ")
        people = [
            "et al." if name == "others" else name.replace(",", "")
            for name in (names if len(names) <= 6 else [*names[:5], "others"])
        ]
        listed = ", ".join(people)
        fields = dict(self.details)
        place = self.venue
        if "volume" in fields:
            place += f" {fields['volume']}"
            place += f"({fields['number']})" if "number" in fields else ""
        place += f":{fields['pages'].replace('--', '–')}" if "pages" in fields else ""
        stop = "" if listed.endswith(".") else "."
        title = self.title.replace("{", "").replace("}", "").replace("``", "“").replace("''", "”")
        return f"{listed}{stop} {title}. {place + '. ' if place else ''}{self.year}."

    def bibtex(self, key):
        """The work as a BibTeX entry."""
        venue = {"article": "journal", "inproceedings": "booktitle"}.get(self.kind, "publisher")
        fields = [("author", self.authors), ("title", self.title)]
        if self.venue:
            fields.append((venue, self.venue))
        fields += [("year", str(self.year)), *self.details]
        fields += [("doi", self.doi), ("url", self.url)]
        lines = ",\n".join(f"    {name} = {{{value}}}" for name, value in fields)
        return f"@{self.kind}{{{key},\n{lines}\n}}\n"


REFERENCES = {
    "blindharmony": Reference(
        "inproceedings",
        "Jeong, Hwihun and Byun, Heejoon and Kang, Dong Un and Lee, Jongho",
        "{BlindHarmony}: ``Blind'' Harmonization for {MR} Images via Flow Model",
        2023,
        "10.48550/arXiv.2305.10732",
        "Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)",
        (("eprint", "2305.10732"), ("archiveprefix", "arXiv")),
    ),
    "nsf": Reference(
        "inproceedings",
        "Durkan, Conor and Bekasov, Artur and Murray, Iain and Papamakarios, George",
        "Neural Spline Flows",
        2019,
        "10.48550/arXiv.1906.04032",
        "Advances in Neural Information Processing Systems",
        (("volume", "32"), ("eprint", "1906.04032"), ("archiveprefix", "arXiv")),
    ),
    "nflows": Reference(
        "misc",
        "Durkan, Conor and Bekasov, Artur and Murray, Iain and Papamakarios, George",
        "{nflows}: normalizing flows in {PyTorch}",
        2020,
        "10.5281/zenodo.4296287",
        "Zenodo",
    ),
    "pytorch": Reference(
        "inproceedings",
        "Paszke, Adam and Gross, Sam and Massa, Francisco and Lerer, Adam and Bradbury, James "
        "and Chanan, Gregory and others",
        "{PyTorch}: An Imperative Style, High-Performance Deep Learning Library",
        2019,
        "10.48550/arXiv.1912.01703",
        "Advances in Neural Information Processing Systems",
        (("volume", "32"), ("eprint", "1912.01703"), ("archiveprefix", "arXiv")),
    ),
    "n4": Reference(
        "article",
        "Tustison, Nicholas J. and Avants, Brian B. and Cook, Philip A. and Zheng, Yuanjie "
        "and Egan, Alexander and Yushkevich, Paul A. and Gee, James C.",
        "{N4ITK}: Improved {N3} Bias Correction",
        2010,
        "10.1109/TMI.2010.2046908",
        "IEEE Transactions on Medical Imaging",
        (("volume", "29"), ("number", "6"), ("pages", "1310--1320")),
    ),
    "ants": Reference(
        "article",
        "Avants, Brian B. and Tustison, Nicholas J. and Song, Gang and Cook, Philip A. "
        "and Klein, Arno and Gee, James C.",
        "A Reproducible Evaluation of {ANTs} Similarity Metric Performance in Brain Image "
        "Registration",
        2011,
        "10.1016/j.neuroimage.2010.09.025",
        "NeuroImage",
        (("volume", "54"), ("number", "3"), ("pages", "2033--2044")),
    ),
    "syn": Reference(
        "article",
        "Avants, Brian B. and Epstein, Charles L. and Grossman, Murray and Gee, James C.",
        "Symmetric Diffeomorphic Image Registration with Cross-Correlation: Evaluating Automated "
        "Labeling of Elderly and Neurodegenerative Brain",
        2008,
        "10.1016/j.media.2007.06.004",
        "Medical Image Analysis",
        (("volume", "12"), ("number", "1"), ("pages", "26--41")),
    ),
    "within": Reference(
        "article",
        "Reuter, Martin and Schmansky, Nicholas J. and Rosas, H. Diana and Fischl, Bruce",
        "Within-Subject Template Estimation for Unbiased Longitudinal Image Analysis",
        2012,
        "10.1016/j.neuroimage.2012.02.084",
        "NeuroImage",
        (("volume", "61"), ("number", "4"), ("pages", "1402--1418")),
    ),
    "mni2009": Reference(
        "article",
        "Fonov, Vladimir S. and Evans, Alan C. and McKinstry, Robert C. and Almli, C. Robert "
        "and Collins, D. Louis",
        "Unbiased Nonlinear Average Age-Appropriate Brain Templates from Birth to Adulthood",
        2009,
        "10.1016/S1053-8119(09)70884-5",
        "NeuroImage",
        (("volume", "47"), ("pages", "S102")),
    ),
    "mni2011": Reference(
        "article",
        "Fonov, Vladimir and Evans, Alan C. and Botteron, Kelly and Almli, C. Robert "
        "and McKinstry, Robert C. and Collins, D. Louis",
        "Unbiased Average Age-Appropriate Atlases for Pediatric Studies",
        2011,
        "10.1016/j.neuroimage.2010.07.033",
        "NeuroImage",
        (("volume", "54"), ("number", "1"), ("pages", "313--327")),
    ),
    "efron": Reference(
        "article",
        "Efron, Bradley",
        "Tweedie's Formula and Selection Bias",
        2011,
        "10.1198/jasa.2011.tm11181",
        "Journal of the American Statistical Association",
        (("volume", "106"), ("number", "496"), ("pages", "1602--1614")),
    ),
    "nipype": Reference(
        "article",
        "Gorgolewski, Krzysztof and Burns, Christopher D. and Madison, Cindee and Clark, Dav "
        "and Halchenko, Yaroslav O. and Waskom, Michael L. and Ghosh, Satrajit S.",
        "{Nipype}: A Flexible, Lightweight and Extensible Neuroimaging Data Processing Framework "
        "in {Python}",
        2011,
        "10.3389/fninf.2011.00013",
        "Frontiers in Neuroinformatics",
        (("volume", "5"), ("pages", "13")),
    ),
    "bids": Reference(
        "article",
        "Gorgolewski, Krzysztof J. and Auer, Tibor and Calhoun, Vince D. and Craddock, R. Cameron "
        "and Das, Samir and Duff, Eugene P. and others",
        "The Brain Imaging Data Structure, a Format for Organizing and Describing Outputs of "
        "Neuroimaging Experiments",
        2016,
        "10.1038/sdata.2016.44",
        "Scientific Data",
        (("volume", "3"), ("pages", "160044")),
    ),
    "bidsapps": Reference(
        "article",
        "Gorgolewski, Krzysztof J. and Alfaro-Almagro, Fidel and Auer, Tibor "
        "and Bellec, Pierre and Capotă, Mihai and Chakravarty, M. Mallar and others",
        "{BIDS} Apps: Improving Ease of Use, Accessibility, and Reproducibility of Neuroimaging "
        "Data Analysis Methods",
        2017,
        "10.1371/journal.pcbi.1005209",
        "PLOS Computational Biology",
        (("volume", "13"), ("number", "3"), ("pages", "e1005209")),
    ),
    "nibabel": Reference(
        "misc",
        "Brett, Matthew and Markiewicz, Christopher J. and Hanke, Michael and Côté, Marc-Alexandre "
        "and Cipollini, Ben and McCarthy, Paul and others",
        "{nipy/nibabel}",
        2024,
        "10.5281/zenodo.591597",
        "Zenodo",
    ),
}
