"""Certificates as any other team makes them, with the `openssl` program alone: good ones, and all that must be refused.
And what `openssl s_client` sees of a port."""

import datetime
import os
import pathlib
import re
import shutil
import subprocess
import typing

import harness

DOMAIN = "nova.svc.cluster.local"
# The least that a client of OpenSSL may be talked into: below it nothing is refused for being weak.
WEAKEST = ("-cipher", "DEFAULT@SECLEVEL=0")


def dns_name(principal):
    return f"{principal}.{DOMAIN}"


def names_of(principal):
    """What the certificate of a principal must say, as openssl's configuration spells it."""
    return f"URI:spiffe://nova/{principal},DNS:{dns_name(principal)},DNS:localhost,IP:127.0.0.1"


def openssl(*arguments, cwd="/", stdin=None, check=True):
    return subprocess.run(["openssl", *map(str, arguments)], cwd=cwd, env=harness.environment(), input=stdin,
                          timeout=harness.VERB_LIMIT, capture_output=True, text=True, errors="backslashreplace",
                          check=check)


class Leaf(typing.NamedTuple):
    certificate: pathlib.Path  # and what is sent along with it
    key: pathlib.Path

    @property
    def serial(self):
        return openssl("x509", "-in", self.certificate, "-noout", "-serial").stdout.strip().removeprefix("serial=")


KEYS = {"P-256": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"), "RSA-2048": ("rsa:2048",), "RSA-1024": ("rsa:1024",)}
CONFIGURATION = """[ca]
default_ca = authority
[authority]
database = index
new_certs_dir = .
rand_serial = yes
unique_subject = no
policy = any
[any]
commonName = supplied
"""


class Authority:
    """Signs what it is asked to, in `folder`, which is its own. Times are in seconds from now."""

    def __init__(self, folder, certificate, key):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.certificate, self.key = pathlib.Path(certificate), pathlib.Path(key)
        (self.folder / "ca.cnf").write_text(CONFIGURATION)
        (self.folder / "index").touch()

    @classmethod
    def of(cls, stack, folder="stack-ca"):
        """The one whose leaves the stack trusts."""
        return cls(stack.folder / folder, stack.data / "ca" / "ca.crt", stack.data / "ca" / "ca.key")

    @classmethod
    def create(cls, folder, name="Somebody else's CA"):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True)
        openssl("req", "-x509", "-newkey", *KEYS["P-256"], "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj",
                f"/CN={name}", "-days", "2", "-addext", "keyUsage=critical,keyCertSign", cwd=folder)
        return cls(folder, folder / "ca.crt", folder / "ca.key")

    def issue(self, file, principal="operator", names=None, usages="serverAuth,clientAuth", begins=-60, ends=3600,
              key="P-256", digest="sha256", constraints="CA:FALSE", along=()):
        """A leaf in `file`.crt and `file`.key. `names`: its subjectAltName, "" for none; `along`: certificates that are
        sent with it."""
        moment = lambda seconds: (datetime.datetime.now(datetime.timezone.utc) +
                                  datetime.timedelta(seconds=seconds)).strftime("%Y%m%d%H%M%SZ")
        openssl("req", "-new", "-newkey", *KEYS[key], "-nodes", "-keyout", f"{file}.key", "-out", f"{file}.csr",
                "-subj", f"/CN={principal}", cwd=self.folder)
        extensions = [f"basicConstraints=critical,{constraints}", "subjectKeyIdentifier=hash",
                      "authorityKeyIdentifier=keyid:always",
                      f"keyUsage=critical,{'keyCertSign' if constraints == 'CA:TRUE' else 'digitalSignature'}"]
        names = names_of(principal) if names is None else names
        extensions += [f"subjectAltName={names}"] if names else []
        extensions += [f"extendedKeyUsage={usages}"] if usages else []
        (self.folder / f"{file}.ext").write_text("\n".join(extensions) + "\n")
        openssl("ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", self.certificate, "-keyfile", self.key, "-in",
                f"{file}.csr", "-out", f"{file}.crt", "-startdate", moment(begins), "-enddate", moment(ends), "-md",
                digest, "-extfile", f"{file}.ext", cwd=self.folder)
        leaf = Leaf(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        if along:
            leaf.certificate.write_text("".join(path.read_text() for path in (leaf.certificate, *along)))
        return leaf

    def self_signed(self, file, principal="operator"):
        openssl("req", "-x509", "-newkey", *KEYS["P-256"], "-nodes", "-keyout", f"{file}.key", "-out", f"{file}.crt",
                "-subj", f"/CN={principal}", "-days", "2", "-addext", f"subjectAltName={names_of(principal)}",
                "-addext", "extendedKeyUsage=serverAuth,clientAuth", cwd=self.folder)
        return Leaf(self.folder / f"{file}.crt", self.folder / f"{file}.key")


class MountedSecret:
    """A folder of certificates that is replaced as Kubernetes replaces a mounted Secret: the files are links through
    `..data`, and that link changes, in one step, to a new folder; the one before is removed."""

    FILES = ("tls.crt", "tls.key", "ca.crt")

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self.version = 0

    def __getitem__(self, file):
        return str(self.folder / file)

    def put(self, certificate, key, ca):
        """Each is bytes, or the path of a file; None: there is no such file."""
        before = self.folder / f"..version_{self.version}"
        self.version += 1
        fresh = self.folder / f"..version_{self.version}"
        fresh.mkdir()
        for file, content in zip(self.FILES, (certificate, key, ca)):
            if content is not None:
                content = content if isinstance(content, bytes) else pathlib.Path(content).read_bytes()
                (fresh / file).write_bytes(content)
        (self.folder / "..data_tmp").symlink_to(fresh.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        for file in self.FILES:
            if not os.path.lexists(self.folder / file):
                (self.folder / file).symlink_to(f"..data/{file}")
        shutil.rmtree(before, ignore_errors=True)


class Shown(typing.NamedTuple):
    """What a port showed to `openssl s_client`."""
    verified: bool  # chain, validity and, if one was asked for, the name
    protocol: str
    errors: str
    pem: str  # the leaf

    def field(self, option, *more):
        return openssl("x509", "-noout", option, *more, stdin=self.pem).stdout.strip()

    @property
    def serial(self):
        return self.field("-serial").removeprefix("serial=")

    @property
    def not_after(self):
        """In seconds since 1970."""
        text = self.field("-enddate").removeprefix("notAfter=")
        moment = datetime.datetime.strptime(text, "%b %d %H:%M:%S %Y %Z")
        return moment.replace(tzinfo=datetime.timezone.utc).timestamp()

    @property
    def names(self):
        text = self.field("-ext", "subjectAltName").partition("\n")[2]
        return sorted(name.strip() for name in text.split(","))


def client_arguments(port, ca, leaf=None, name=None, starttls=None, alpn=None):
    arguments = ["s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", ca, "-verify_return_error"]
    arguments += ["-verify_hostname", name, "-servername", name] if name else []
    arguments += ["-cert", leaf.certificate, "-cert_chain", leaf.certificate, "-key", leaf.key] if leaf else []
    arguments += ["-starttls", starttls] if starttls else []
    arguments += ["-alpn", alpn] if alpn else []
    return arguments


def look_at(port, *more, **options):
    """One handshake with a port, and what it showed. It ends when the handshake does."""
    done = openssl(*client_arguments(port, **options), *more, stdin="", check=False)
    protocol = re.search(r"New, (TLS\S+), Cipher is", done.stdout)
    pem = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", done.stdout, re.DOTALL)
    name_is_right = "name" not in options or f"Verified peername: {options['name']}" in done.stdout
    return Shown(done.returncode == 0 and "Verification: OK" in done.stdout and name_is_right and bool(protocol),
                 protocol.group(1) if protocol else "", done.stderr, pem.group(0) if pem else "")


def is_turned_away(port, *more, limit=harness.CALL_LIMIT, **options):
    """Whether the other end closes the connection without a word, for a client that would stay. For a server of gRPC:
    those it takes hear its settings at once. With TLS 1.3 a client alone cannot tell, as it is done before the server
    has looked at its certificate."""
    command = ["openssl", *map(str, client_arguments(port, **options)), "-quiet", "-ign_eof", *more]
    try:
        done = subprocess.run(command, env=harness.environment(), stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode != 0 and not done.stdout
