#!/bin/sh
# Makes the certificates of a farm with private authorities, as PEM files in one folder:
#
#   certificates.sh FOLDER server NAME HOST…   NAME.pem, NAME.key for a server that is reached as HOST (names or addresses)
#   certificates.sh FOLDER client NAME         NAME.pem, NAME.key for somebody who builds
#   certificates.sh FOLDER agent NAME          NAME.pem, NAME.key for an agent
#   certificates.sh FOLDER roots               roots.pem: what this host trusts, and the farm's authority, for SSL_CERT_FILE
#
# Authorities are made with the first certificate that needs them: ca.pem signs servers and clients, agents-ca.pem signs
# agents, so that nobody who may build can pose as an agent. Keep ca.key and agents-ca.key away from the farm's hosts.
set -eu
umask 077

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# What DAYS, AUTHORITY_DAYS say; certificates are made anew with the same command before they end.
days=${DAYS:-397}
authority_days=${AUTHORITY_DAYS:-3650}

authority() {
    [ ! -e "$folder/$1.key" ] || return 0
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days "$authority_days" \
        -subj "/CN=croft $1" -keyout "$folder/$1.key" -out "$folder/$1.pem" \
        -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
    chmod 644 "$folder/$1.pem"
}

# sign AUTHORITY NAME USAGE ALTERNATIVE-NAMES
sign() {
    authority "$1"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days "$days" \
        -CA "$folder/$1.pem" -CAkey "$folder/$1.key" \
        -subj "/CN=$2" -keyout "$folder/$2.key" -out "$folder/$2.pem" \
        -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature \
        -addext extendedKeyUsage="$3" -addext subjectAltName="$4" 2>/dev/null
    chmod 644 "$folder/$2.pem"
    echo "$folder/$2.pem, $folder/$2.key"
}

alternative_names() {
    names=
    for host in "$@"; do
        case $host in
            *:* | *[0-9].[0-9]*.[0-9]*.[0-9]*) kind=IP ;;
            *) kind=DNS ;;
        esac
        names="$names${names:+,}$kind:$host"
    done
    echo "$names"
}

[ $# -ge 2 ] || usage
command -v openssl >/dev/null || { echo "certificates.sh: openssl (3.0 or later) is missing: install it" >&2; exit 1; }
folder=$1 what=$2
shift 2
mkdir -p "$folder"
case $what in
    server)
        [ $# -ge 2 ] || usage
        name=$1
        shift
        sign ca "$name" serverAuth "$(alternative_names "$@")"
        ;;
    client)
        [ $# -eq 1 ] || usage
        sign ca "$1" clientAuth "DNS:$1"
        ;;
    agent)
        [ $# -eq 1 ] || usage
        sign agents-ca "$1" clientAuth "DNS:$1"
        ;;
    roots)
        authority ca
        cat /etc/ssl/certs/ca-certificates.crt "$folder/ca.pem" >"$folder/roots.pem"
        chmod 644 "$folder/roots.pem"
        echo "$folder/roots.pem"
        ;;
    *) usage ;;
esac
