#!/bin/sh -eu
# Makes the vectors of TestVectors with gpg and openssl, in the current
# directory. The private keys are thrown away.
work=$(mktemp -d)
export GNUPGHOME="$work/gnupg"
mkdir -m 700 "$GNUPGHOME"
trap 'gpgconf --kill all; rm -r "$work"' EXIT

echo hello > manifest
digest=sha256:$(sha256sum manifest | cut -d' ' -f1)
payload() {
	printf '{"critical":{"identity":{"docker-reference":"example.com/vector:v1"},"image":{"docker-manifest-digest":"%s"},"type":"%s"},"optional":%s}' "$digest" "$1" "$2"
}

gpg --batch --passphrase '' --quick-gen-key vector@example.com rsa2048 sign never
gpg --armor --export vector@example.com > key.asc
payload 'atomic container signature' '{"creator":"make.sh","timestamp":1790000000}' | gpg --batch --sign > gpg.signature

openssl ecparam -name prime256v1 -genkey -noout > "$work/key"
openssl pkey -in "$work/key" -pubout > cosign.pub
payload 'cosign container image signature' null > "$work/payload"
signature=$(openssl dgst -sha256 -sign "$work/key" "$work/payload" | base64 -w0)
printf '\0sigstore-json\n{"mimeType":"application/vnd.dev.cosign.simplesigning.v1+json","payload":"%s","annotations":{"dev.cosignproject.cosign/signature":"%s"}}' \
	"$(base64 -w0 < "$work/payload")" "$signature" > cosign.signature

cat > policy.json <<'JSON'
{
  "default": [{"type": "reject"}],
  "transports": {
    "docker": {
      "example.com/vector": [
        {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/keys/key.asc"},
        {"type": "sigstoreSigned", "keyPath": "/etc/keys/cosign.pub"}
      ]
    }
  }
}
JSON
