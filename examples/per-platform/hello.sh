echo "built on $(cat /arch)"
